"""Promises: images in tars and Parquet files are read in place, with their labels; archives that trick or are damaged are refused."""

import io
import json
import os
import random
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import TINY, labels, make_parquet, make_tar, numbers, picture

from jobs.datasets import DatasetError, index_dataset
from jobs.images import decode_rows
from jobs.places import open_file

TENCH, HEN = "n01440764", "n01514859"  # classes 0 and 8


class TestTar:
    def webdataset(self, path: Path, start: int, count: int) -> Path:
        members: dict[str, bytes] = {}
        for number in range(start, start + count):
            if number % 2:
                members[f"{number:04d}.cls"] = b"%d\n" % (number % 3)
                members[f"{number:04d}.png"] = picture(number)
            else:
                members[f"{number:04d}.png"] = picture(number)
                members[f"{number:04d}.json"] = json.dumps({"label": number % 3, "caption": "."}).encode()
            members[f"{number:04d}.mask.png"] = picture(200)
            members[f"{number:04d}.txt"] = b"a caption"
        return make_tar(path, members)

    def test_webdataset_shards(self, tmp_path):
        for shard in range(3):
            self.webdataset(tmp_path / f"train-{shard:03d}.tar", 5 * shard, 5)
        for given_ in (str(tmp_path), f"{tmp_path}/train-{{000..002}}.tar"):
            dataset = index_dataset(given_)
            assert dataset.index["key"][7].as_py() == "train-001.tar/0007.png"
            assert dataset.index["label"].to_pylist() == [number % 3 for number in range(15)]
            assert numbers(dataset.index) == list(range(15))
            assert dataset.label_source == "the archives' .cls or .json"

    def test_one_archive_of_class_folders(self, tmp_path):
        tar = make_tar(tmp_path / "x.tar", {f"./{HEN}/a.png": picture(1), f"./{TENCH}/b.png": picture(2)})
        dataset = index_dataset(str(tar))
        assert labels(dataset.index) == {f"{TENCH}/b.png": 0, f"{HEN}/a.png": 8}
        assert numbers(dataset.index) == [2, 1]

    @pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_every_kind_of_header(self, tmp_path, form):
        long = "/".join(["folder" * 5] * (3 if form == tarfile.USTAR_FORMAT else 9)) + "/ä.png"
        tar = make_tar(tmp_path / "x.tar", {long: picture(5), "b.png": picture(6)}, format=form)
        index = index_dataset(str(tar)).index
        assert index["key"].to_pylist() == ["b.png", long]
        assert numbers(index) == [6, 5]

    def test_images_are_not_read_while_indexing(self, tmp_path, monkeypatch):
        tar = make_tar(tmp_path / "x.tar", {f"{n}.jpg": bytes(10**6) for n in range(20)})
        counted = []
        true_open = open_file

        def counting(uri):
            file, version = true_open(uri)
            return _Counting(file.detach(), counted), version

        monkeypatch.setattr("jobs.indexing.tar.open_file", counting)
        assert len(index_dataset(str(tar)).index) == 20
        assert sum(counted) < 10**6  # of 20 million bytes

    @pytest.mark.parametrize("name", ["../out.png", "/etc/out.png", "a/../../out.png", "./../out.png"])
    def test_names_that_lead_out_are_refused(self, tmp_path, name):
        with pytest.raises(DatasetError, match="leads out of the archive"):
            index_dataset(str(make_tar(tmp_path / "x.tar", {"a.png": picture(1), name: picture(2)})))

    def test_links_in_an_archive_are_no_images(self, tmp_path):
        tar = tmp_path / "x.tar"
        with tarfile.open(tar, "w") as archive:
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
                header = tarfile.TarInfo(f"{kind.decode()}.png")
                header.type, header.linkname = kind, "/etc/passwd"
                archive.addfile(header)
        make = make_tar(tmp_path / "y.tar", {"a.png": picture(1)})
        assert len(index_dataset(str(make)).index) == 1
        with pytest.raises(DatasetError, match="holds no image"):
            index_dataset(str(tar))

    def test_damage_and_truncation_are_not_taken_for_the_end(self, tmp_path):
        whole = make_tar(tmp_path / "x.tar", {f"{n}.png": picture(n) for n in range(5)}).read_bytes()
        step = 512 + 512 * -(-len(picture(0)) // 512)
        damaged = bytearray(whole)
        damaged[2 * step + 20] ^= 255
        for content in (bytes(damaged), whole[: 2 * step + 700], b"not a tar at all" * 100):
            (tmp_path / "x.tar").write_bytes(content)
            with pytest.raises(DatasetError, match=r"is no whole tar file|damaged header at byte"):
                index_dataset(str(tmp_path / "x.tar"))

    def test_a_compressed_archive_is_told_apart(self, tmp_path):
        import gzip

        plain = make_tar(tmp_path / "x.tar", {"a.png": picture(1)}).read_bytes()
        (tmp_path / "x.tar").write_bytes(gzip.compress(plain))
        with pytest.raises(DatasetError, match="unpack it or store it plain"):
            index_dataset(str(tmp_path / "x.tar"))
        (tmp_path / "x.tar").rename(tmp_path / "x.tar.gz")
        with pytest.raises(DatasetError, match=r"'x.tar.gz' can't be read by offset: unpack it"):
            index_dataset(str(tmp_path))

    def test_a_label_that_is_no_index_is_named(self, tmp_path):
        with pytest.raises(DatasetError, match=r"label b'cat' of 1.cls is no class index"):
            index_dataset(str(make_tar(tmp_path / "x.tar", {"1.cls": b"cat", "1.png": picture(1)})))

    def test_metadata_that_holds_no_label_is_no_fault(self, tmp_path):
        samples = {
            "a": {"caption": "x"},
            "b": {"label": "dog"},
            "c": [1, 2],
            "d": {"cls": 4},
            "e": {"label": -1, "target": 2},
        }
        members = {f"{name}.{kind}": b"" for name in samples for kind in ("json", "png")}
        for number, (name, record) in enumerate(samples.items()):
            members[f"{name}.json"], members[f"{name}.png"] = json.dumps(record).encode(), picture(number)
        index = index_dataset(str(make_tar(tmp_path / "x.tar", members))).index
        assert index["label"].to_pylist() == [None, None, None, 4, 2]

    def test_images_that_share_the_start_of_their_name_are_all_kept(self, tmp_path):
        names = ["cat.2.png", "cat.png", "v1.0.png", "v1.1.png"]
        tar = make_tar(tmp_path / "x.tar", {name: picture(number) for number, name in enumerate(names)})
        assert index_dataset(str(tar)).index["key"].to_pylist() == names

    def test_a_changed_archive_is_noticed(self, tmp_path):
        tar = make_tar(tmp_path / "x.tar", {"a.png": picture(1)})
        index = index_dataset(str(tar)).index
        make_tar(tar, {"a.png": picture(2)})
        os.utime(tar, (1, 1))
        (failure,) = decode_rows(index, TINY).failures
        assert "changed since it was indexed" in failure.error


class _Counting(io.BufferedReader):
    def __init__(self, raw, counted):
        super().__init__(raw)
        self.counted = counted

    def read(self, size=-1):
        content = super().read(size)
        self.counted.append(len(content))
        return content


class TestParquet:
    def test_hugging_faces_files(self, tmp_path):
        make_parquet(tmp_path / "train-00000-of-00002.parquet", 0, 10)
        make_parquet(tmp_path / "train-00001-of-00002.parquet", 10, 4)
        dataset = index_dataset(str(tmp_path))
        assert dataset.index["key"][11].as_py() == "train-00001-of-00002.parquet/00000001"
        assert dataset.index["label"].to_pylist() == [None if n % 4 == 0 else n % 4 - 1 for n in range(14)]
        assert dataset.class_names == ("a", "b", "c")
        assert dataset.label_source == "column label"
        assert numbers(dataset.index) == list(range(14))
        shuffled = dataset.index.take(random.Random(0).sample(range(14), 14))
        assert numbers(shuffled) == shuffled["image"].to_pylist()

    def test_plain_binary_columns_and_no_labels(self, tmp_path):
        pq.write_table(pa.table({"jpg": [picture(1), picture(2)], "caption": ["x", "y"]}), tmp_path / "x.parquet")
        dataset = index_dataset(str(tmp_path / "x.parquet"))
        assert dataset.index["key"].to_pylist() == ["00000000", "00000001"]
        assert numbers(dataset.index) == [1, 2]
        assert dataset.label_source is None

    def test_a_row_without_bytes_is_a_failure(self, tmp_path):
        rows = [{"bytes": picture(1), "path": None}, {"bytes": None, "path": "/etc/passwd"}, None]
        pq.write_table(pa.table({"image": rows}), tmp_path / "x.parquet")
        decoded = decode_rows(index_dataset(str(tmp_path / "x.parquet")).index, TINY)
        assert decoded.rows.tolist() == [0]
        assert [failure.error for failure in decoded.failures] == [
            f"row {row} has no image bytes in column image.bytes" for row in (1, 2)
        ]

    def test_files_that_are_not_alike_or_not_whole(self, tmp_path):
        make_parquet(tmp_path / "a.parquet", 0, 3)
        pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "b.parquet")
        with pytest.raises(DatasetError, match=r"b.parquet: 0 columns may hold images, one must"):
            index_dataset(str(tmp_path))
        (tmp_path / "b.parquet").write_bytes(b"PAR1 cut off")
        with pytest.raises(DatasetError, match=r"b.parquet is no whole Parquet file"):
            index_dataset(str(tmp_path))

    def test_a_changed_file_is_noticed(self, tmp_path):
        index = index_dataset(str(make_parquet(tmp_path / "a.parquet", 0, 3))).index
        os.utime(tmp_path / "a.parquet", (1, 1))
        decoded = decode_rows(index, TINY)
        assert len(decoded.failures) == 3
        assert "changed since it was indexed" in decoded.failures[0].error
