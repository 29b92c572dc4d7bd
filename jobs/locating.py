"""Where runs lie, in a module of its own: those who look and ask need nothing else of what follows or drives a run."""

from pathlib import Path

RUNS = "runs"  # where runs lie that were given no place


def locate(text: str) -> str:
    """RUN as a user says it: a path, a URI, or an id under runs/."""
    if "://" in text or Path(text).exists():
        return text
    under = Path(RUNS, text)
    return str(under) if under.exists() else text
