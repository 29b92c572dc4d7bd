"""Promises: bytes by offset, a changed file noticed, what is no file refused without waiting for it."""

import os

import pytest
from pictures import SMALL
from PIL import Image

from jobs.datasets import index_dataset
from jobs.images import ReadError, decode_rows
from jobs.reading import read


class TestRead:
    def test_a_part_and_the_whole(self, tmp_path):
        file = tmp_path / "shard.bin"
        file.write_bytes(bytes(range(200)))
        assert read(str(file)) == bytes(range(200))
        assert read(str(file), 10, 5) == bytes(range(10, 15))
        assert read(file.as_uri(), 10, 5) == bytes(range(10, 15))

    def test_what_is_missing_or_short_or_no_file_is_named(self, tmp_path):
        (tmp_path / "short").write_bytes(b"12")
        os.mkfifo(tmp_path / "pipe")
        for name, offset, reason in [
            ("absent", None, "No such file"),
            ("short", 0, "ends after 2 of 9 bytes"),
            ("pipe", None, "not a regular file"),  # a plain open would wait for a writer
            (".", None, "Is a directory|not a regular file"),
        ]:
            with pytest.raises(ReadError, match=reason):
                read(str(tmp_path / name), offset, 9)

    def test_a_changed_file_is_noticed_even_where_its_size_is_the_same(self, tmp_path):
        Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
        table = index_dataset(str(tmp_path)).index
        assert not decode_rows(table, SMALL).failures
        os.utime(tmp_path / "a.png", (1, 1))
        (failure,) = decode_rows(table, SMALL).failures
        assert (failure.stage, failure.key) == ("read", "a.png")
        assert "changed since it was indexed" in failure.error
