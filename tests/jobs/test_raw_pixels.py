"""Promises: data sets of raw pixels are read where they lie, as torchvision would show them, and their pickles run nothing."""

import os
import pickle
import struct

import numpy as np
import pytest
from pictures import TINY, labels, numbers, write

from jobs.datasets import DatasetError, index_dataset
from jobs.images import Preprocessing, decode_rows


class TestArrays:
    def test_cifar10_as_its_authors_pickled_it(self, tmp_path):
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        rng = np.random.default_rng(0)
        pixels = {}
        for number, name in enumerate(["test_batch", *(f"data_batch_{k}" for k in range(1, 6))]):
            pixels[name] = rng.integers(0, 256, (4, 3072), np.uint8)
            (folder / name).write_bytes(python2_pickle(pixels[name], "labels", [3, 8, 8, number]))
        (folder / "batches.meta").write_bytes(
            pickle.dumps({"label_names": [f"class {k}" for k in range(10)]}, protocol=0)
        )
        dataset = index_dataset("cifar10", data_root=str(tmp_path))
        assert dataset.name == "cifar10:test"
        assert dataset.index["label"].to_pylist() == [3, 8, 8, 0]
        assert dataset.class_names[3] == "class 3"
        decoded = decode_rows(dataset.index, Preprocessing(resize=None, crop=(32, 32))).pixels
        assert np.array_equal(decoded, pixels["test_batch"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        assert len(index_dataset("cifar10:train", data_root=str(tmp_path)).index) == 20

    def test_cifar100(self, tmp_path):
        folder = tmp_path / "cifar-100-python"
        folder.mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
        for name in ("train", "test"):
            (folder / name).write_bytes(python2_pickle(pixels, "fine_labels", [1, 99, 5]))
        (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a"] * 100}, protocol=0))
        index = index_dataset("cifar100", data_root=str(tmp_path)).index
        assert index["label"].to_pylist() == [1, 99, 5]
        assert not decode_rows(index, TINY).failures

    def test_a_pickle_that_wants_more_than_arrays_is_not_run(self, tmp_path):
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": []}))
        (folder / "test_batch").write_bytes(b"cos\nsystem\n(S'touch " + os.fsencode(tmp_path / "ran") + b"'\ntR.")
        with pytest.raises(DatasetError, match=r"it asks for os.system, which no array needs"):
            index_dataset("cifar10", data_root=str(tmp_path))
        assert not (tmp_path / "ran").exists()

    def test_stl10(self, tmp_path):
        folder = tmp_path / "stl10_binary"
        folder.mkdir()
        images = np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96), np.uint8)  # N, C, then W before H
        images.tofile(folder / "test_X.bin")
        np.array([1, 10, 2], np.uint8).tofile(folder / "test_y.bin")
        (folder / "class_names.txt").write_text("airplane\nbird\n")
        dataset = index_dataset("stl10", data_root=str(tmp_path))
        assert dataset.index["label"].to_pylist() == [0, 9, 1]
        decoded = decode_rows(dataset.index, Preprocessing(resize=None, crop=(96, 96))).pixels
        assert np.array_equal(decoded, images.transpose(0, 3, 2, 1))

    @pytest.mark.parametrize(
        ("name", "folder"), [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST"), ("kmnist", "KMNIST")]
    )
    def test_mnists_family_agrees_with_torchvision(self, tmp_path, name, folder):
        from jobs.torchvision_shim import torchvision

        raw = tmp_path / folder / "raw"
        raw.mkdir(parents=True)
        images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
        for stem in ("t10k", "train"):
            (raw / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 5, 28, 28) + images.tobytes())
            (raw / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 5) + bytes([7, 2, 1, 0, 9]))
        dataset = index_dataset(name, data_root=str(tmp_path))
        theirs = getattr(torchvision.datasets, folder)(tmp_path, train=False)
        assert dataset.index["label"].to_pylist() == [label for _, label in theirs]
        assert len(dataset.class_names) == 10
        pixels = decode_rows(dataset.index, Preprocessing(resize=None, crop=(28, 28))).pixels
        assert all(
            np.array_equal(ours[..., 0], np.asarray(image)) for ours, (image, _) in zip(pixels, theirs, strict=True)
        )

    def test_what_is_missing_or_cut_is_one_line(self, tmp_path):
        for name, reason in [
            ("cifar10", "no cifar-10-batches-py in"),
            ("stl10", "no stl10_binary/test_X.bin in"),
            ("mnist:train", "no MNIST/raw/train-images-idx3-ubyte in"),
            ("cifar10:val", "cifar10 has no split 'val'; known: test, train"),
            ("food101", "food101:test can't be read from"),
        ]:
            with pytest.raises(DatasetError, match=reason):
                index_dataset(name, data_root=str(tmp_path))
        with pytest.raises(DatasetError, match="needs the folder that it was unpacked in: pass --data-root"):
            index_dataset("cifar10")
        (tmp_path / "test_X.bin").write_bytes(bytes(100))
        (tmp_path / "test_y.bin").write_bytes(bytes([1, 2]))
        with pytest.raises(DatasetError, match=r"test_X.bin has 100 bytes, not 2 images of 27648"):
            index_dataset("stl10", data_root=str(tmp_path))

    def test_torchvisions_sets_of_files(self, tmp_path):
        """EuroSAT stands for those that keep samples, DTD for those that keep files and labels."""
        write(tmp_path / "eurosat/2750", "Forest/1.jpg", "River/2.jpg")
        eurosat = index_dataset("eurosat", data_root=str(tmp_path))
        assert labels(eurosat.index) == {"eurosat/2750/Forest/1.jpg": 0, "eurosat/2750/River/2.jpg": 1}
        assert eurosat.class_names == ("Forest", "River")
        write(tmp_path / "dtd/dtd/images", "banded/a.jpg", "dotted/b.jpg", "dotted/c.jpg")
        (tmp_path / "dtd/dtd/labels").mkdir()
        (tmp_path / "dtd/dtd/labels/test1.txt").write_text("dotted/c.jpg\nbanded/a.jpg\n")
        dtd = index_dataset("dtd", data_root=str(tmp_path))
        assert labels(dtd.index) == {"dtd/dtd/images/banded/a.jpg": 0, "dtd/dtd/images/dotted/c.jpg": 1}
        assert numbers(dtd.index) == [0, 2]


def python2_pickle(pixels: np.ndarray, label_name: str, label_list: list[int]) -> bytes:
    """A batch as Python 2's cPickle wrote it, by hand: byte strings are opcode T, which Python 3 never writes."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    data = pixels.tobytes()
    return b"".join(
        (
            b"\x80\x02}(",
            string(b"batch_label") + string(b"testing batch 1 of 1"),
            string(b"data"),
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R",
            b"(K\x01" + b"J" + struct.pack("<i", pixels.shape[0]) + b"J" + struct.pack("<i", pixels.shape[1]) + b"\x86",
            b"cnumpy\ndtype\n"
            + string(b"u1")
            + b"K\x00K\x01\x87R(K\x03"
            + string(b"|")
            + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + struct.pack("<i", len(data)) + data + b"tb",
            string(label_name.encode()) + b"](" + b"".join(b"K" + bytes([label]) for label in label_list) + b"e",
            b"u.",
        )
    )
