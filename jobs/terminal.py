"""Texts from elsewhere (data sets, logs, a cluster's answers) on a terminal: shown, not obeyed."""

import re
import unicodedata
from collections.abc import Callable

LAST_OF_LATIN_1 = 0xFF
LAST_OF_FOUR_DIGITS = 0xFFFF
_SUSPECT = re.compile(r"[^\n\t -~]")


def visible(text: str) -> str:
    """The text with its lines, and whatever could move the cursor, colour, or turn the direction of writing as an escape."""
    return replaced(text, _escaped)


def replaced(text: str, escape: Callable[[str], str]) -> str:
    return _SUSPECT.sub(lambda found: found[0] if _is_harmless(found[0]) else escape(found[0]), text)


def _escaped(character: str) -> str:
    code = ord(character)
    if code <= LAST_OF_LATIN_1:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= LAST_OF_FOUR_DIGITS else f"\\U{code:08x}"


def _is_harmless(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # spaces of any width
