"""Promises: a function of the user's gives the model and its preprocessing; what is wrong with it is said in one line."""

import sys
from pathlib import Path

import pytest
from small_models import tiny
from torch import nn

from jobs.images import Preprocessing
from jobs.models import ModelError, load


def tiny_with_preprocessing() -> tuple[nn.Module, Preprocessing]:
    return tiny(), Preprocessing(resize=40, crop=(32, 32))


def no_model() -> str:
    return "oops"


def broken() -> nn.Module:
    raise RuntimeError("my own fault")


class TestOwn:
    @pytest.fixture(autouse=True)
    def here(self, monkeypatch):
        monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def test_a_function_gives_a_model_and_may_give_its_preprocessing(self):
        assert load("test_own_models:tiny").preprocessing == Preprocessing()
        loaded = load("test_own_models:tiny_with_preprocessing")
        assert loaded.preprocessing.crop == (32, 32)
        assert not loaded.model.training
        assert loaded.weights == "function test_own_models:tiny_with_preprocessing"

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("nosuch.module:tiny", "can't be imported .*No module named 'nosuch'"),
            ("test_own_models:nosuch", "can't be imported .*no attribute 'nosuch'"),
            ("test_own_models:no_model", "returned str; it must return a torch module"),
            ("test_own_models:__doc__", "is a str, no function"),
        ],
    )
    def test_what_is_wrong_is_said(self, name, reason):
        with pytest.raises(ModelError, match=reason):
            load(name)

    def test_an_error_of_the_users_own_code_keeps_its_traceback(self):
        with pytest.raises(RuntimeError, match="my own fault"):
            load("test_own_models:broken")

    def test_a_module_in_the_current_folder_is_found(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        Path("mine_in_cwd.py").write_text("import torch\ndef build(): return torch.nn.Linear(3, 2)\n")
        assert load("mine_in_cwd:build").digest
