"""Law: who may import whom (ARCHITECTURE 2), read from the imports; and what the light commands may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from fake_runs import fake_run

ROOT = Path(__file__).resolve().parent.parent
OURS = {"attribution", "storage", "jobs", "commands", "cli"}
MAY_IMPORT = {
    "attribution": {"attribution"},
    "storage": {"storage"},
    "jobs": {"jobs", "storage", "attribution"},
    "commands": {"commands", "jobs", "storage", "attribution"},
    "cli": {"commands"},
}
# Outside the standard library; jobs ties everything together and may take what it needs.
OUTSIDE = {
    "attribution": {"torch", "numpy"},
    "storage": {"numpy", "zarr", "numcodecs", "google_crc32c", "pyarrow", "duckdb", "obstore"},
    "commands": {"click", "rich"},
    "cli": {"click"},
}
ALLOWED_IN = {
    "attribution/visualization": {"matplotlib", "mpl_toolkits"},
    "attribution/regions.py": {"skimage"},  # inside the superpixel function alone
    "attribution/gpu/": {"triton"},  # which is imported where there is a GPU alone
    "storage/run.py": {"xarray"},  # inside to_xarray alone
}


def modules():
    return [*(path for name in OURS - {"cli"} for path in (ROOT / name).rglob("*.py")), ROOT / "cli.py"]


def imported(path):
    """Every module named by an import statement, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_keep_to_the_architecture(path):
    place = path.relative_to(ROOT)
    room = place.parts[0].removesuffix(".py")
    tops = {name.split(".", maxsplit=1)[0] for name in imported(path)}
    assert tops & OURS <= MAY_IMPORT[room]
    if room in OUTSIDE:
        extra = {name for prefix, names in ALLOWED_IN.items() if str(place).startswith(prefix) for name in names}
        foreign = tops - OURS - set(sys.stdlib_module_names)
        assert foreign <= OUTSIDE[room] | extra


def test_arrays_cross_from_engine_to_store_in_one_place():
    """`Result`, which carries maps, is made in jobs/shard.py and nowhere else."""
    makers = [
        path.relative_to(ROOT) for path in modules() if path.parts[-2] == "jobs" and "Result(" in path.read_text()
    ]
    assert makers == [Path("jobs/shard.py")]


def loaded_after(code):
    program = f"import sys\n{code}\nprint(*sorted({{'torch', 'ray'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()[-2:] if done.stdout.strip() else []


@pytest.mark.parametrize(
    "code",
    [
        "import cli",
        "import jobs.overview, storage.run",
        "import jobs.show",
        "import jobs.report",
        "import jobs.spec, jobs.schedule",
        "import jobs.decoding",  # in a process of its own on every core
    ],
)
def test_what_only_reads_loads_neither_torch_nor_ray(code):
    assert loaded_after(code) == []


def test_torchvision_is_loaded_only_for_its_own_models():
    """It brings the compiler along and takes as long as torch itself, in every worker."""
    program = """
import sys
import jobs.driver, jobs.models
jobs.models.load("tests.jobs.tiny:model")
print("loaded:", *({"torchvision", "timm", "torch._dynamo"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["loaded:"]


def test_asking_the_tables_loads_nothing_that_draws_or_reads_maps(tmp_path):
    """These cost more than the answer: a second of start-up with pandas and Zarr, half without."""
    fake_run(tmp_path, 6).compact()
    heavy = {"torch", "ray", "zarr", "pandas", "pyarrow.dataset", "matplotlib", "PIL"}
    program = f"""
import contextlib, sys
from cli import main
with contextlib.suppress(SystemExit):
    main(["query", {str(tmp_path / "run")!r}, "select count(*) as rows from summary"])
print("loaded:", *({heavy!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["rows", "15", "loaded:"]
