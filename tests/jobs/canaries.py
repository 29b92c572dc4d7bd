"""Secrets that no run may repeat: put into its environment, then looked for in everything it wrote."""

from pathlib import Path

CANARIES = {
    "AWS_ACCESS_KEY_ID": "canary-3f7a-access",
    "AWS_SECRET_ACCESS_KEY": "canary-3f7a-secret",
    "AWS_SESSION_TOKEN": "canary-3f7a-session",
    "AZURE_STORAGE_KEY": "canary-3f7a-azure",
    "GOOGLE_SERVICE_ACCOUNT_KEY": "canary-3f7a-google",
    "HF_TOKEN": "canary-3f7a-hub",
    "MY_DATABASE_PASSWORD": "canary-3f7a-own",
}
MARK = b"canary-3f7a"


def sung(*texts: str) -> bool:
    return any(MARK in text.encode() for text in texts)


def singing_files(folder: Path) -> list[str]:
    """Files that hold a canary. Compressed parts are read as they lie; what goes in there are numbers and the columns of the index."""
    return [str(path) for path in sorted(folder.rglob("*")) if path.is_file() and MARK in path.read_bytes()]
