"""Run Captum's own test-suite with Ascribe's classes in the place of Captum's, and count what passes.

    git clone --branch v0.9.0 https://github.com/meta-pytorch/captum /tmp/captum
    python benchmarks/captum_suite.py /tmp/captum tests/attr tests/metrics -q

Every name that `attribution` shares with `captum.attr` and `captum.metrics` is replaced wherever Captum's modules hold it,
before the tests are imported; everything else (test models, private helpers) stays Captum's. Further arguments go to pytest.
"""

import importlib
import os
import pkgutil
import sys
from types import ModuleType

import pytest

import attribution

ROOTS = ("captum.attr", "captum.metrics", "captum.testing")


def swap() -> dict[str, int]:
    """Put our classes and functions in the place of Captum's; how often each name was met."""
    modules = [module for root in ROOTS for module in _all_modules(root)]
    replaced = dict.fromkeys(attribution.CAPTUM_NAMES, 0)
    for module in modules:
        for name in replaced:
            theirs = getattr(module, name, None)
            if getattr(theirs, "__module__", "").startswith("captum."):
                setattr(module, name, getattr(attribution, name))
                replaced[name] += 1
    return replaced


def _all_modules(root: str) -> list[ModuleType]:
    package = importlib.import_module(root)
    # The table of test cases builds on what it finds when it is imported: it comes after the swap
    inner = [found.name for found in pkgutil.walk_packages(package.__path__, f"{root}.") if "testing" not in root]
    return [package, *(importlib.import_module(name) for name in inner)]


def main(checkout: str, *arguments: str) -> int:
    """Swap and run; pytest's exit status."""
    replaced = swap()
    print(f"{sum(map(bool, replaced.values()))} names swapped", file=sys.stderr)
    os.chdir(checkout)
    return pytest.main(["-p", "no:cacheprovider", "--rootdir", checkout, "-W", "ignore", *arguments])


if __name__ == "__main__":
    if len(sys.argv) < 2 or not os.path.isdir(os.path.join(sys.argv[1], "tests")):  # noqa: PTH112, PTH118  # one line
        sys.exit("give the folder of a Captum checkout that has tests/: its wheel and sdist come without")
    raise SystemExit(main(*sys.argv[1:]))
