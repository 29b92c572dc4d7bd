"""Promises: a data set in a bucket has the same keys, labels and pictures as on a disk."""

import os

import obstore
import pytest
from pictures import TINY, labels, make_parquet, make_tar, numbers, picture

from jobs.datasets import DatasetError, index_dataset
from jobs.images import decode_rows
from jobs.places import AwayError, bucket
from jobs.reading import ReadError, read


class TestBucket:
    """The same data sets in a bucket of moto's S3: the same keys, labels, and pictures."""

    @pytest.fixture
    def upload(self, s3, request):
        root = f"{s3}/{request.node.name.replace('[', '-').replace(']', '')}-{os.getpid()}"

        def put(files: dict[str, bytes]) -> str:
            for name, content in files.items():
                store, path = bucket(f"{root}/{name}")
                obstore.put(store, path, content)
            return root

        return put

    def test_class_folders(self, upload):
        root = upload(
            {"dog/1.png": picture(1), "cat/2 #ä%20[].png": picture(2), "cat/.hidden.png": b"", "README": b"x"}
        )
        dataset = index_dataset(root)
        assert labels(dataset.index) == {"cat/2 #ä%20[].png": 0, "dog/1.png": 1}
        assert numbers(dataset.index) == [2, 1]
        assert len(index_dataset(f"{root}/d*/*.png").index) == 1
        assert index_dataset(f"{root}/dog/1.png").index["key"].to_pylist() == ["1.png"]

    def test_a_flat_prefix_with_labels_and_a_neighbour_of_a_like_name(self, upload):
        root = upload({"a/x.png": picture(1), "a/labels.csv": b"key,label\nx.png,3\n", "ab/y.png": picture(2)})
        dataset = index_dataset(f"{root}/a")
        assert labels(dataset.index) == {"x.png": 3}
        assert dataset.name == "a"

    def test_tar_and_parquet_are_read_by_range(self, upload, tmp_path):
        tar = make_tar(
            tmp_path / "x.tar",
            {f"{n}.{kind}": picture(n) if kind == "png" else b"%d" % n for n in range(5) for kind in ("cls", "png")},
        )
        parquet = make_parquet(tmp_path / "x.parquet", 0, 7)
        root = upload({"tars/x.tar": tar.read_bytes(), "rows/x.parquet": parquet.read_bytes()})
        for place, count in (("tars/x.tar", 5), ("tars", 5), ("rows/x.parquet", 7), ("rows", 7)):
            assert numbers(index_dataset(f"{root}/{place}").index) == list(range(count))

    def test_imagenet_val(self, upload):
        names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2)]
        truth = {"ILSVRC2012_validation_ground_truth.txt": b"490\n361\n"}
        root = upload({f"val/{name}": picture(n) for n, name in enumerate(names)} | truth)
        dataset = index_dataset("imagenet-val", data_root=root)
        assert labels(dataset.index) == dict(zip(names, (65, 970), strict=True))
        assert numbers(dataset.index) == [0, 1]

    def test_a_changed_or_missing_object_is_a_failure(self, upload):
        root = upload({"a.png": picture(1), "b.png": picture(2), "c.png": picture(3)})
        index = index_dataset(root).index
        upload({"a.png": picture(9)})  # the same size: the ETag tells
        store, path = bucket(f"{root}/b.png")
        obstore.delete(store, path)
        decoded = decode_rows(index, TINY)
        assert decoded.rows.tolist() == [2]
        assert [failure.stage for failure in decoded.failures] == ["read", "read"]
        assert "changed since it was indexed" in decoded.failures[0].error
        assert "\n" not in decoded.failures[1].error

    def test_an_empty_prefix_and_a_bucket_that_is_not_there(self, s3):
        with pytest.raises(DatasetError, match="holds no image"):
            index_dataset(f"{s3}/nothing/here")
        with pytest.raises(DatasetError, match=r"can't be listed: .*NoSuchBucket|can't be listed"):
            index_dataset("s3://no-such-bucket-of-ours/x")

    def test_part_of_an_object(self, upload):
        root = upload({"x.bin": bytes(range(100))})
        assert read(f"{root}/x.bin", 10, 5) == bytes(range(10, 15))
        assert read(f"{root}/x.bin", 10, 0) == b""
        with pytest.raises(ReadError, match="ends after 2 of 10 bytes"):
            read(f"{root}/x.bin", 98, 10)

    def test_a_store_that_is_not_there_is_told_from_an_object_that_is_not(self, s3, monkeypatch):
        with pytest.raises(ReadError, match=r"NoSuchKey|not found"):
            read(f"{s3}/no/such/object.png")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens
        with pytest.raises(AwayError) as error:
            read("s3://another-bucket/x.png")
        assert "\n" not in str(error.value)
