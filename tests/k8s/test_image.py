"""The image is built from pinned parts, runs as nobody in particular, and holds neither weights nor data."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jobs import __version__
from jobs.kubernetes import MANIFESTS
from tests.k8s import make_constraints

TOP = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.split("==") for line in (TOP / "k8s" / "constraints.txt").read_text().splitlines() if not line.startswith("#")
)


def instructions(text):
    """(name, the rest) of each, with continued lines joined and comments gone."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [tuple(line.split(None, 1)) for line in re.sub(r"\\\n\s*", "", lines).splitlines() if line.strip()]


def stages(text):
    found = {}
    for name, rest in instructions(text):
        if name == "FROM":
            parent, _, alias = rest.partition(" AS ")
            found[alias] = [("PARENT", parent)]
        else:
            found[alias].append((name, rest))
    return found


def lint(text):
    """What is wrong with a Dockerfile, a line each."""
    built = stages(text)
    for alias, steps in built.items():
        parent = steps[0][1]
        if parent not in built and not re.search(r":\d+\.\d+\.\d+[-\w.]*@sha256:[0-9a-f]{64}$", parent):
            yield f"{alias}: {parent} is not one image"
        for name, rest in steps:
            if name == "ADD":
                yield f"{alias}: ADD {rest}; COPY says what it does"
            if name in ("ENV", "ARG") and re.search(r"(?i)secret|token|password|_key\b", rest):
                yield f"{alias}: {name} {rest} stays in the image's history"
            if name == "RUN" and re.search(r"curl|wget|git clone", rest):
                yield f"{alias}: RUN {rest} fetches what nothing pins"
            if name == "RUN" and "pip install" in rest and "--constraint" not in rest:
                yield f"{alias}: RUN {rest} installs what is newest today"
            if name == "COPY" and (rest.startswith(". ") or re.search(r"\.(pt|pth|safetensors|JPEG|zarr)\b", rest)):
                yield f"{alias}: COPY {rest} takes more than code"
    for target in ("cpu", "cuda"):
        last = [rest for name, rest in built.get(target, []) if name == "USER"][-1:]
        if last != ["1000:1000"]:
            yield f"{target}: USER is {last}, not 1000:1000"


GOOD = (TOP / "k8s" / "Dockerfile").read_text()


def test_dockerfile_keeps_its_promises():
    assert list(lint(GOOD)) == []


@pytest.mark.parametrize(
    ("old", "new", "answer"),
    [
        (r"@sha256:\w+", "", "not one image"),
        (r"3\.11\.13\S+", "latest", "not one image"),
        ("USER 1000:1000", "USER root", "not 1000:1000"),
        ("COPY jobs", "ADD https://example.org/jobs.tar", "ADD"),
        ("ARG EXTRAS=timm", "ARG AWS_SECRET_ACCESS_KEY", "history"),
        ("--constraint /etc/ascribe-constraints.txt", "", "newest today"),
        ("COPY jobs /source/jobs", "COPY . /source", "more than code"),
        ("RUN useradd", "RUN curl https://example.org | sh && useradd", "nothing pins"),
    ],
)
def test_worse_dockerfile_is_refused(old, new, answer):
    assert any(answer in problem for problem in lint(re.sub(old, new, GOOD)))


def linter(name):
    """A program of the test extra, beside this Python or on the path."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return found or pytest.skip(f"{name}, of the test extra, is not on this machine")


def test_hadolint_finds_nothing(tmp_path):
    program = [linter("hadolint"), "--no-color"]
    told = subprocess.run([*program, TOP / "k8s" / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "")
    (tmp_path / "Dockerfile").write_text(GOOD.replace("RUN useradd", "RUN cd /srv && sudo useradd"))
    told = subprocess.run([*program, tmp_path / "Dockerfile"], capture_output=True, text=True, check=False)
    assert "DL3004" in told.stdout  # it does look


def test_the_workflow_gives_strangers_nothing():
    """Texts that others choose (branch names, users) in a shell's line, rights and credentials left lying, caches of a release."""
    told = subprocess.run(
        [linter("zizmor"), "--offline", "--no-progress", TOP / ".github" / "workflows"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout


def test_build_context_is_what_the_image_copies():
    """The ignore file lets in exactly what COPY names; nothing else of a working copy can slip in."""
    let_in = {
        line[1:] for line in (TOP / "k8s" / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")
    }
    copied = {source for name, rest in instructions(GOOD) if name == "COPY" for source in rest.split()[:-1]}
    assert copied - {"k8s/constraints.txt"} == let_in


def test_pins_cover_and_satisfy_what_the_project_needs():
    for requirement in make_constraints.wanted():
        pin = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} against {pin}"


def test_sample_with_its_weights_stays_outside():
    sample = {canonicalize_name(Requirement(text).name) for text in PROJECT["optional-dependencies"]["sample"]}
    assert not sample & PINS.keys()


def test_versions_agree():
    """Image tags, Ray's version and the pins are said in several places and mean the same."""
    text = "".join(path.read_text() for path in sorted(MANIFESTS.rglob("*.yaml"))) + GOOD
    assert set(re.findall(r"ascribe:(\d[\w.]*)-c", text)) == {__version__}
    assert set(re.findall(r"newTag: (\S+)-cpu", text)) == {__version__}
    assert set(re.findall(r'rayVersion: "(\S+)"', text)) == {PINS["ray"]}


def test_workflow_uses_pinned_actions_and_no_more_rights_than_needed():
    workflow = yaml.safe_load((TOP / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in steps if "uses" in step)
    assert workflow["permissions"] == {"contents": "read"}
    assert any(step.get("run") == ".ci/run" for step in steps)
    assert set(workflow["jobs"]["image"]["strategy"]["matrix"]["target"]) == {"cpu", "cuda"} <= stages(GOOD).keys()
