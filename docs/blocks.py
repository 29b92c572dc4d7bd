"""The code blocks of a page, run in the order of reading: Python in one namespace, shell lines with this checkout's cli.py."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, replaced: Mapping[str, str]) -> list[tuple[str, str]]:
    """Language and code of each block, with some texts replaced; each of these must occur, or the page has moved on."""
    text = page.read_text(encoding="utf-8")
    for old, new in replaced.items():
        if old not in text:
            raise ValueError(f"{page.name} no longer says {old!r}")
        text = text.replace(old, new)
    return [(found[1], found[2]) for found in _BLOCK.finditer(text)]


def run_block(language: str, code: str, names: dict[str, Any]) -> None:
    """In the current folder. Python keeps what it defines in `names`."""
    if language == "python":
        exec(compile(code, "<block>", "exec"), names)  # noqa: S102  # running the page's code is the purpose
        return
    script = code.replace("python cli.py", f"{sys.executable} {ROOT / 'cli.py'}")
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})  # noqa: S603, S607
