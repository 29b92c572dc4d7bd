"""Write k8s/constraints.txt: every package that the image installs, at the version of the environment that the tests ran in.

.venv/bin/python tests/k8s/make_constraints.py
"""

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).resolve().parents[2]
TARGET = TOP / "k8s" / "constraints.txt"
HEAD = """\
# What the image installs, pinned: the versions that the tests ran with. Made by tests/k8s/make_constraints.py.
# A CUDA build of torch pins its own nvidia packages.
"""


def wanted() -> list[Requirement]:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    return [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["timm"]]


def closure(requirements: list[Requirement]) -> dict[str, str]:
    """Name and version of all that these need, among what is installed."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while requirements:
        requirement = requirements.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        installed = importlib.metadata.distribution(name)
        found[name] = installed.version.partition("+")[0]  # a local build, as of torch for CPUs, is the image's choice
        for text in installed.requires or ():
            inner = Requirement(text)
            extras = requirement.extras or {""}
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                requirements.append(inner)
    return found


if __name__ == "__main__":
    pins = closure(wanted())
    TARGET.write_text(HEAD + "".join(f"{name}=={pins[name]}\n" for name in sorted(pins)))
