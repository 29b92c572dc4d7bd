"""Stores of every kind under the same tests: a disk, this process's memory, and S3 as moto plays it."""

import os
import uuid

import pytest

from storage.objects import open_objects


@pytest.fixture(autouse=True)
def flushes(monkeypatch):
    """Counts flushes to the disk and skips them: no test cuts the power, and a loaded disk takes seconds."""
    flushed = []
    monkeypatch.setattr("storage.local.os.fsync", flushed.append)
    return flushed


@pytest.fixture(params=["memory", "local", "s3"])
def uri(request, tmp_path):
    """A fresh place for a run on each kind of store."""
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    if request.param == "local":
        return str(tmp_path / "run")
    return f"{request.getfixturevalue('s3')}/{os.getpid()}/{uuid.uuid4().hex}"


@pytest.fixture
def objects(uri):
    return open_objects(uri)
