"""Promises: weights from a file fit strictly and run no code; what can't be had says the way out."""

import io
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small_models import SMALL

from jobs.models import ModelError, load
from jobs.torchvision_shim import torchvision

NAMES = torchvision.models.list_models(module=torchvision.models)


pytestmark = pytest.mark.usefixtures("no_network")


class Canary:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


class TestCheckpoint:
    @pytest.mark.parametrize("form", ["plain", "nested", "wrapped", "compiled", "safetensors"])
    def test_every_usual_form_gives_the_same_model(self, small, tmp_path, form):
        state = small.model.state_dict()
        path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
        match form:
            case "safetensors":
                safetensors.torch.save_file(state, path)
            case "nested":
                torch.save({"state_dict": state, "epoch": 3}, path)
            case "wrapped":
                torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
            case "compiled":
                torch.save({f"_orig_mod.{name}": tensor for name, tensor in state.items()}, path)
            case _:
                torch.save(state, path)
        loaded = load(f"{SMALL}:{path}")
        assert loaded.digest == small.digest
        assert loaded.weights == f"checkpoint {path.name}"
        assert not loaded.model.training

    def test_a_head_of_ten_classes_is_built_to_fit_and_has_no_names(self, tmp_path):
        torch.save(torchvision.models.get_model(SMALL, weights=None, num_classes=10).state_dict(), tmp_path / "ten.pt")
        loaded = load(f"{SMALL}:{tmp_path / 'ten.pt'}")
        assert loaded.model(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
        assert loaded.class_names is None

    @pytest.mark.parametrize(
        "name", [name for name in NAMES if not name.startswith("regnet") or name == "regnet_x_400mf"]
    )
    def test_every_architecture_defines_its_classifier_last(self, name):
        """What the head's size is read from."""
        from jobs.zoo.torchvision_models import _class_count

        with torch.device("cpu" if name.startswith("regnet") else "meta"):  # regnet computes with its widths
            arguments = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
            assert _class_count(torchvision.models.get_model(name, weights=None, num_classes=7, **arguments)) == 7

    def test_published_files_keep_their_old_names_and_lacks(self, tmp_path):
        """DenseNet's says `norm.1`, and files from before 2018 have no count of batches; MNASNet's modules ask for a version."""
        import re

        for name in ("densenet121", "mnasnet0_5"):
            state = torchvision.models.get_model(name, weights=None).eval().state_dict()
            old = {
                re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): tensor for key, tensor in state.items()
            }
            torch.save({key: tensor for key, tensor in old.items() if "num_batches" not in key}, tmp_path / "w.pt")
            loaded = load(f"{name}:{tmp_path / 'w.pt'}").model.state_dict()
            assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())

    def test_a_file_of_torchvisions_own_keeps_its_preprocessing(self, tmp_path):
        torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "mobilenet_v2-b0353104.pth")
        assert load(f"mobilenet_v2:{tmp_path}/mobilenet_v2-b0353104.pth").preprocessing.resize == 256  # V1's
        (tmp_path / "mobilenet_v2-b0353104.pth").rename(tmp_path / "mine.pth")
        assert load(f"mobilenet_v2:{tmp_path}/mine.pth").preprocessing.resize == 232  # the default's, V2

    def test_from_a_bucket(self, small, s3, monkeypatch):
        import obstore

        from jobs.places import bucket

        monkeypatch.undo()  # this one needs the network of this machine
        file = io.BytesIO()
        torch.save(small.model.state_dict(), file)
        for name, content in (
            ("w.pt", file.getvalue()),
            ("w.safetensors", safetensors.torch.save(small.model.state_dict())),
        ):
            store, path = bucket(f"{s3}/models/{name}")
            obstore.put(store, path, content)
            assert load(f"{SMALL}:{s3}/models/{name}").digest == small.digest
        with pytest.raises(ModelError, match=r"checkpoint s3://.*/models/absent.pt can't be read"):
            load(f"{SMALL}:{s3}/models/absent.pt")

    def test_another_architectures_weights_are_refused_with_the_names(self, small, tmp_path):
        torch.save(small.model.state_dict(), tmp_path / "w.pt")
        with pytest.raises(
            ModelError, match=r"does not fit ResNet: .* missing \(conv1.*unexpected \(.*another architecture\?"
        ) as error:
            load(f"resnet18:{tmp_path / 'w.pt'}")
        assert "\n" not in str(error.value)

    def test_one_wrong_shape_is_named(self, small, tmp_path):
        state = small.model.state_dict() | {"conv1.0.weight": torch.zeros(24, 3, 5, 5)}
        torch.save(state, tmp_path / "w.pt")
        with pytest.raises(
            ModelError, match=r"1 of another shape \(conv1.0.weight is \(24, 3, 5, 5\), not \(24, 3, 3, 3\)\)"
        ):
            load(f"{SMALL}:{tmp_path / 'w.pt'}")

    def test_a_pickle_runs_only_when_it_is_trusted(self, small, tmp_path):
        torch.save({"state_dict": small.model.state_dict(), "extra": Canary(tmp_path / "ran")}, tmp_path / "w.pt")
        with pytest.raises(ModelError, match=r"needs pickle, which can run any code; .*--trust-checkpoint"):
            load(f"{SMALL}:{tmp_path / 'w.pt'}")
        assert not (tmp_path / "ran").exists()
        assert load(f"{SMALL}:{tmp_path / 'w.pt'}", trust_checkpoint=True).digest == small.digest
        assert (tmp_path / "ran").exists()

    def test_a_whole_pickled_model_gives_its_weights_when_it_is_trusted(self, small, tmp_path):
        torch.save(small.model, tmp_path / "w.pt")
        with pytest.raises(ModelError, match="needs pickle"):
            load(f"{SMALL}:{tmp_path / 'w.pt'}")
        assert load(f"{SMALL}:{tmp_path / 'w.pt'}", trust_checkpoint=True).digest == small.digest

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("w.pt", b"", "damaged"),
            ("w.pt", b"PK\x03\x04 cut short", "damaged"),
            ("w.pt", pickle.dumps([1, 2]), "damaged|no state dict"),
            ("w.safetensors", b"\0" * 20, "damaged"),
        ],
    )
    def test_a_damaged_file_is_one_line(self, tmp_path, name, content, reason):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=reason) as error:
            load(f"{SMALL}:{tmp_path / name}")
        assert "\n" not in str(error.value)
        assert str(tmp_path / name) in str(error.value)

    def test_what_holds_no_state_is_told_what_it_holds(self, tmp_path):
        torch.save({"optimizer": {}, "epoch": 3}, tmp_path / "w.pt")
        with pytest.raises(ModelError, match=r"no state dict \(found: optimizer, epoch\)"):
            load(f"{SMALL}:{tmp_path / 'w.pt'}")

    def test_a_missing_file(self):
        with pytest.raises(ModelError, match=r"checkpoint /no/such.pt not found"):
            load(f"{SMALL}:/no/such.pt")


class TestPretrained:
    def cached(self, tmp_path) -> Path:
        file = tmp_path / "torch/hub/checkpoints" / Path(torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url).name
        file.parent.mkdir(parents=True)
        return file

    def test_weights_on_this_machine_need_no_network(self, small, tmp_path, capsys):
        torch.save(small.model.state_dict(), self.cached(tmp_path))
        for name in (SMALL, f"{SMALL}:IMAGENET1K_V1", f"{SMALL}:DEFAULT"):
            loaded = load(name)
            assert loaded.digest == small.digest
            assert loaded.weights == "torchvision ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
        assert capsys.readouterr().out == ""  # stdout belongs to --json

    def test_without_them_one_line_says_where_the_file_should_lie_and_what_to_pass_instead(self):
        file = "resnet50-11ad3fa6.pth"
        with pytest.raises(ModelError) as error:
            load("resnet50")
        message = str(error.value)
        assert "\n" not in message
        for part in (
            "IMAGENET1K_V2 of resnet50",
            f"torch/hub/checkpoints/{file}",
            "resnet50:/path/to",
            "resnet50:random",
        ):
            assert part in message

    def test_a_planted_pickle_in_the_cache_does_not_run(self, small, tmp_path):
        torch.save({**small.model.state_dict(), "x": Canary(tmp_path / "ran")}, self.cached(tmp_path))
        with pytest.raises(ModelError, match=r"can't be used \(it holds more than tensors\); remove the file"):
            load(SMALL)
        assert not (tmp_path / "ran").exists()

    def test_timm_without_a_network(self):
        pytest.importorskip("timm", reason="the timm extra is not installed")
        with pytest.raises(
            ModelError, match=r"weights of timm/test_resnet are not on this machine .* timm/test_resnet:random"
        ):
            load("timm/test_resnet")
