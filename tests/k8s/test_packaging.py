"""An installed `ascribe k8s render` finds its manifests: the wheel carries them where jobs/kubernetes.py looks."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


def test_wheel_carries_every_manifest(tmp_path):
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not in this environment, and building in isolation would need a network")
    source = tmp_path / "source"
    source.mkdir()
    for path in (TOP / "pyproject.toml", TOP / "README.md", *TOP.glob("*.py")):
        shutil.copy(path, source)
    for name in ("attribution", "jobs", "storage", "k8s"):
        shutil.copytree(TOP / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("ascribe-*.whl")
    carried = set(zipfile.ZipFile(wheel).namelist())
    manifests = {
        path.relative_to(TOP).as_posix() for path in (TOP / "k8s").rglob("*") if path.suffix in (".yaml", ".json")
    }
    assert manifests <= carried
    assert "jobs/kubernetes.py" in carried  # beside k8s/, as MANIFESTS assumes
