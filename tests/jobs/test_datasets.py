"""Promises: the same files give the same index wherever and in whatever order they lie; nothing is lost, doubled or read from outside."""

import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jobs.datasets import DatasetError, index_dataset, known_datasets
from jobs.images import Preprocessing, decode_rows
from jobs.indexing.entry import SCHEMA, Entry, index_digest, printable, to_table
from jobs.indexing.imagenet_classes import class_names, label_of_ilsvrc_id, label_of_wnid
from jobs.indexing.listing import translate
from jobs.places import bucket, open_file
from jobs.reading import ReadError, read

SMALL = Preprocessing(resize=None, crop=(8, 8))
TENCH, GOLDFISH, HEN = "n01440764", "n01443537", "n01514859"  # classes 0, 1 and 8


def picture(number: int, form: str = "PNG") -> bytes:
    """8 x 8 of one colour that tells which picture it is."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 2 * number, 255 - number)).save(file, form)
    return file.getvalue()


def write(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))
    return root


def numbers(index: pa.Table) -> list[int]:
    """Which pictures the rows really lead to."""
    decoded = decode_rows(index, SMALL)
    assert not decoded.failures
    return decoded.pixels[:, 0, 0, 0].tolist()


def labels(index: pa.Table) -> dict[str, int | None]:
    return dict(zip(index["key"].to_pylist(), index["label"].to_pylist(), strict=True))


class TestIndex:
    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.text(min_size=1), unique=True), st.randoms())
    def test_is_sorted_by_code_point_and_numbered_whatever_the_order(self, keys, shuffled):
        """Of any text: hypothesis brings characters beyond 16 bits, which UTF-16 would sort otherwise."""
        entries = [Entry(key, f"/x/{key}") for key in {printable(key) for key in keys if _is_text(key)}]
        table = to_table(entries)
        assert table["key"].to_pylist() == sorted(entry.key for entry in entries)
        assert table["image"].to_pylist() == list(range(len(entries)))
        assert table.schema.equals(SCHEMA)
        shuffled.shuffle(entries)
        assert to_table(entries).equals(table)
        assert index_digest(to_table(entries)) == index_digest(table)

    def test_a_key_twice_is_refused(self):
        with pytest.raises(DatasetError, match="1 keys are there more than once, first 'b'"):
            to_table([Entry("b", "/1"), Entry("a", "/2"), Entry("b", "/3")])

    @pytest.mark.parametrize(
        "changed", [{"key": "b"}, {"label": 3}, {"version": "9"}, {"length": 6}, {"offset": 1}, {"label": None}]
    )
    def test_the_digest_sees_what_an_image_is(self, changed):
        entry = Entry("a", "/here", 0, 5, 2, "1-2")
        assert index_digest(to_table([entry])) != index_digest(to_table([entry._replace(**changed)]))

    def test_the_digest_does_not_see_where_it_lies(self):
        entry = Entry("a", "/here", 0, 5, 2, "1-2")
        assert index_digest(to_table([entry])) == index_digest(to_table([entry._replace(uri="s3://there/a")]))

    def test_it_does_not_depend_on_how_the_table_is_chunked(self):
        table = to_table(Entry(f"{n:06d}", "/x", label=n % 7) for n in range(200_000))
        chunked = pa.concat_tables([table.slice(0, 3), table.slice(3)])
        assert index_digest(chunked) == index_digest(table)


class TestFolder:
    def test_class_folders_are_labelled_in_sorted_order(self, tmp_path):
        write(tmp_path, "dog/1.jpg", "cat/2.png", "cat/deeper/3.JPEG", "bird/4.webp")
        (tmp_path / "bear").mkdir()  # an empty class counts, as for torchvision's ImageFolder
        (tmp_path / "cat/notes.txt").write_text("not an image")
        dataset = index_dataset(str(tmp_path))
        assert labels(dataset.index) == {"bird/4.webp": 1, "cat/2.png": 2, "cat/deeper/3.JPEG": 2, "dog/1.jpg": 3}
        assert dataset.class_names == ("bear", "bird", "cat", "dog")
        assert dataset.label_source == "class folders (sorted)"
        assert numbers(dataset.index) == [3, 1, 2, 0]

    def test_wnid_folders_have_imagenets_index(self, tmp_path):
        write(tmp_path, f"{HEN}/a.JPEG", f"{GOLDFISH}/b.JPEG")
        dataset = index_dataset(str(tmp_path))
        assert labels(dataset.index) == {f"{GOLDFISH}/b.JPEG": 1, f"{HEN}/a.JPEG": 8}
        assert dataset.class_names == class_names()
        assert dataset.label_source == "class folders (ImageNet wnids)"

    def test_a_flat_folder_has_no_labels_unless_a_file_gives_them(self, tmp_path):
        write(tmp_path, "a.jpg", "b.jpg", "c.jpg")
        assert labels(index_dataset(str(tmp_path)).index) == {"a.jpg": None, "b.jpg": None, "c.jpg": None}
        (tmp_path / "labels.csv").write_text("\ufeffname,key,label\nx,b.jpg,7\ny,c.jpg,\n", encoding="utf-8")
        dataset = index_dataset(str(tmp_path))
        assert labels(dataset.index) == {"a.jpg": None, "b.jpg": 7, "c.jpg": None}
        assert dataset.label_source == "labels.csv"

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("file,class\na.jpg,1\n", "must name the columns key,label .found: file,class."),
            ("key,label\na.jpg,tench\n", "line 2: label 'tench' is no class index"),
            ("key,label\na.jpg,-1\n", "line 2: label '-1' is no class index"),
            ("key,label\na.jpg,99999999999\n", "line 2: label '99999999999' is no class index"),
            ("key,label\nwrong/a.jpg,1\n", "none of its 1 keys is an image"),
        ],
    )
    def test_a_wrong_labels_file_is_one_line(self, tmp_path, text, reason):
        write(tmp_path, "a.jpg", "b.jpg")
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(DatasetError, match=reason):
            index_dataset(str(tmp_path))

    def test_hidden_files_are_no_images(self, tmp_path):
        write(tmp_path, "a.jpg", "._a.jpg", ".cache/b.jpg")
        assert index_dataset(str(tmp_path)).index["key"].to_pylist() == ["a.jpg"]

    def test_links_within_the_folder_are_followed_and_those_out_of_it_refused(self, tmp_path):
        root = write(tmp_path / "root", "a.jpg", "deep/b.jpg")
        (root / "c.jpg").symlink_to(root / "a.jpg")
        (root / "again").symlink_to(root / "deep")  # its images are indexed where they lie, once
        (root / "loop").symlink_to(root)
        assert index_dataset(str(root)).index["key"].to_pylist() == ["a.jpg", "c.jpg", "deep/b.jpg"]
        secret = write(tmp_path, "secret.jpg") / "secret.jpg"
        for name, target in (("out.jpg", secret), ("outside", tmp_path)):
            (root / name).symlink_to(target)
            with pytest.raises(DatasetError, match=f"{name} is a link out of the data set, to {target}"):
                index_dataset(str(root))
            (root / name).unlink()

    def test_a_root_that_is_a_link_is_fine(self, tmp_path):
        write(tmp_path / "real", "a.jpg")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        assert len(index_dataset(str(tmp_path / "link")).index) == 1

    def test_a_link_to_nothing_becomes_a_failure_and_is_not_lost(self, tmp_path):
        (write(tmp_path, "a.jpg") / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
        decoded = decode_rows(index_dataset(str(tmp_path)).index, SMALL)
        assert [(failure.key, failure.stage) for failure in decoded.failures] == [("gone.jpg", "read")]

    def test_names_that_are_no_text_or_look_like_patterns(self, tmp_path):
        odd = os.fsencode(tmp_path) + b"/caf\xe9.png"
        Path(os.fsdecode(odd)).write_bytes(picture(3))
        write(tmp_path, "a [1].png", "50%.png", "x#y?.png", "new\nline.png")
        index = index_dataset(str(tmp_path)).index
        assert sorted(index["key"].to_pylist()) == sorted(
            ["a [1].png", "50%.png", "x#y?.png", r"new\x0aline.png", "caf\\xe9.png"]
        )
        assert sorted(numbers(index)) == [0, 1, 2, 3, 3]
        write(tmp_path / "folder [2020]", "a.png")
        assert len(index_dataset(str(tmp_path / "folder [2020]")).index) == 1

    def test_names_can_not_write_to_a_terminal(self, tmp_path):
        write(tmp_path, "\x1b[31mred/a\n.png", "b/\x9b.png")
        dataset = index_dataset(str(tmp_path))
        assert labels(dataset.index) == {r"\x1b[31mred/a\x0a.png": 0, r"b/\x9b.png": 1}
        assert dataset.class_names == (r"\x1b[31mred", "b")
        assert numbers(dataset.index) == [0, 1]

    def test_one_image(self, tmp_path):
        write(tmp_path, "a.jpg", "b.jpg")
        assert index_dataset(str(tmp_path / "b.jpg")).index["key"].to_pylist() == ["b.jpg"]

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("*.png", {"a.png"}),
            ("**/*.png", {"a.png", "x/b.png", "x/y/c.png"}),
            ("*/?.png", {"x/b.png"}),
            ("x/**", {"x/b.png", "x/y/c.png", "x/n07.jpg", "x/n12.jpg"}),
            ("x/n{08..12}.jpg", {"x/n12.jpg"}),
            ("{a,x/b}.png", {"a.png", "x/b.png"}),
            ("x/n[0-1][!2].jpg", {"x/n07.jpg"}),
        ],
    )
    def test_globs(self, tmp_path, pattern, expected):
        write(tmp_path, "a.png", "x/b.png", "x/y/c.png", "x/n07.jpg", "x/n12.jpg")
        found = index_dataset(f"{tmp_path}/{pattern}").index["uri"].to_pylist()
        assert {uri.removeprefix(f"{tmp_path}/") for uri in found} == expected

    @settings(max_examples=200, deadline=None)
    @given(st.text(alphabet="ab.+()^$|\\/-", max_size=12))
    def test_a_glob_without_wild_characters_fits_itself_alone(self, text):
        import re

        assert re.fullmatch(translate(text), text)
        assert not re.fullmatch(translate(text), f"{text}a")


class TestSelection:
    @pytest.fixture
    def folder(self, tmp_path):
        return str(write(tmp_path, *(f"{name}/{number}.png" for name in "abc" for number in range(4))))

    def test_keys_then_filter_then_limit(self, folder):
        keys = ["c/1.png", "a/3.png", "b/0.png", "a/3.png"]
        chosen = index_dataset(folder, keys=keys, filter="label < 2", limit=1).index
        assert chosen["key"].to_pylist() == ["a/3.png"]
        assert index_dataset(folder, keys=keys).index["key"].to_pylist() == ["a/3.png", "b/0.png", "c/1.png"]
        assert index_dataset(folder, keys=keys).index["image"].to_pylist() == [0, 1, 2]

    def test_unknown_keys_are_named_with_the_nearest(self, folder):
        with pytest.raises(
            DatasetError, match=r"1 of 2 keys are not in the data set, first 'a/33.png'; nearest: 'a/3.png'"
        ):
            index_dataset(folder, keys=["a/33.png", "a/3.png"])

    @settings(max_examples=60, deadline=None)
    @given(
        rows=st.lists(st.tuples(st.integers(0, 9), st.sampled_from("xyz")), min_size=1, max_size=30),
        bound=st.integers(0, 9),
        letter=st.sampled_from("xyz"),
    )
    def test_a_filter_is_what_python_says(self, rows, bound, letter):
        from jobs.indexing.selection import choose_where

        table = to_table(Entry(f"{letter_}{n}", "/x", label=label) for n, (label, letter_) in enumerate(rows))
        expected = [row["key"] for row in table.to_pylist() if row["label"] < bound or row["key"].startswith(letter)]
        condition = f"label < {bound} or key like '{letter}%'"
        if expected:
            assert choose_where(table, condition)["key"].to_pylist() == expected
        else:
            with pytest.raises(DatasetError, match=rf"leaves none of {len(rows)} images"):
                choose_where(table, condition)

    @pytest.mark.parametrize(
        "condition",
        [
            "label <",
            "nosuch = 1",
            "1=1) UNION SELECT 1 --",
            "1=1); DROP TABLE images; --",
            "key IN (SELECT content FROM read_text('/etc/passwd'))",
            "key IN (SELECT key FROM table_from_python)",
            "key = getenv('HOME')",
            "",
        ],
    )
    def test_a_filter_reads_the_index_and_nothing_else(self, folder, condition, monkeypatch):
        table_from_python = pa.table({"key": ["a/1.png"]})  # noqa: F841  # duckdb would find it by its name
        with pytest.raises(DatasetError, match="is no condition over the index") as error:
            index_dataset(folder, filter=condition)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("limit", [1, 5, 12, 99])
    def test_a_limit_takes_the_first(self, folder, limit):
        everything = index_dataset(folder).index
        assert index_dataset(folder, limit=limit).index.equals(everything.slice(0, limit))


class TestImageNet:
    NAMES = tuple(f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3))
    # The development kit's first three lines: sea snake, alp, Shetland sheepdog.
    GROUND_TRUTH = "490\n361\n171\n"
    LABELS = (65, 970, 230)

    def expect(self, dataset, source):
        assert labels(dataset.index) == dict(zip(self.NAMES, self.LABELS, strict=True))
        assert numbers(dataset.index) == [0, 1, 2]
        assert dataset.name == "imagenet-val"
        assert dataset.label_source == source
        assert dataset.class_names[65] == "sea snake"
        assert "non-commercial" in dataset.licence

    def wnids(self):
        by_label = {label: wnid for wnid, label in label_of_wnid().items()}
        return [by_label[label] for label in self.LABELS]

    @pytest.mark.parametrize("below", ["val", "", "ILSVRC/Data/CLS-LOC/val"])
    def test_folders_by_wnid(self, tmp_path, below):
        write(tmp_path / below, *(f"{wnid}/{name}" for wnid, name in zip(self.wnids(), self.NAMES, strict=True)))
        self.expect(index_dataset("imagenet-val", data_root=str(tmp_path)), "class folders (ImageNet wnids)")

    def test_the_root_may_come_from_the_environment(self, tmp_path, monkeypatch):
        write(tmp_path / "val", *(f"{wnid}/{name}" for wnid, name in zip(self.wnids(), self.NAMES, strict=True)))
        monkeypatch.setenv("IMAGENET_ROOT", str(tmp_path))
        self.expect(index_dataset("imagenet-val"), "class folders (ImageNet wnids)")

    @pytest.mark.parametrize("place", ["", "devkit/data", "ILSVRC2012_devkit_t12/data"])
    def test_flat_with_the_kits_ground_truth(self, tmp_path, place):
        """Its numbers are the kit's own (1 to 1000, not in sorted order): off by this, accuracy is 0.1 %."""
        write(tmp_path / "val", *self.NAMES)
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "ILSVRC2012_validation_ground_truth.txt").write_text(self.GROUND_TRUTH)
        self.expect(index_dataset("imagenet-val", data_root=str(tmp_path)), "ILSVRC2012_validation_ground_truth.txt")

    def test_flat_with_a_label_file_in_torchvisions_order(self, tmp_path):
        write(tmp_path, *self.NAMES)
        (tmp_path / "val.txt").write_text(
            "".join(f"{name} {label}\n" for name, label in zip(self.NAMES, self.LABELS, strict=True))
        )
        self.expect(index_dataset("imagenet-val", data_root=str(tmp_path)), "val.txt")

    def test_flat_with_a_labels_csv(self, tmp_path):
        write(tmp_path / "val", *self.NAMES)
        rows = "".join(f"{name},{label}\n" for name, label in zip(self.NAMES, self.LABELS, strict=True))
        (tmp_path / "labels.csv").write_text(f"key,label\n{rows}")
        self.expect(index_dataset("imagenet-val", data_root=str(tmp_path)), "labels.csv")

    def test_kaggles_copy(self, tmp_path):
        write(tmp_path / "ILSVRC/Data/CLS-LOC/val", *self.NAMES)
        rows = "".join(f"{name[:-5]},{wnid} 1 2 30 40 \n" for name, wnid in zip(self.NAMES, self.wnids(), strict=True))
        (tmp_path / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{rows}")
        self.expect(index_dataset("imagenet-val", data_root=str(tmp_path)), "LOC_val_solution.csv")

    @pytest.mark.parametrize("given_as", ["root", "tar"])
    def test_the_original_tar_is_read_in_place(self, tmp_path, given_as):
        tar = make_tar(tmp_path / "ILSVRC2012_img_val.tar", {name: picture(n) for n, name in enumerate(self.NAMES)})
        (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text(self.GROUND_TRUTH)
        dataset = index_dataset("imagenet-val", data_root=str(tmp_path if given_as == "root" else tar))
        self.expect(dataset, "ILSVRC2012_validation_ground_truth.txt")
        assert set(dataset.index["uri"].to_pylist()) == {str(tar)}

    def test_without_labels_it_is_still_a_data_set(self, tmp_path):
        write(tmp_path / "val", *self.NAMES)
        dataset = index_dataset("imagenet-val", data_root=str(tmp_path))
        assert dataset.label_source is None
        assert dataset.index["label"].null_count == 3

    def test_the_training_set_beside_it_is_not_taken_for_it(self, tmp_path):
        write(tmp_path / "train", f"{TENCH}/n01440764_1.JPEG")
        with pytest.raises(DatasetError, match=r"nothing in .* looks like it; understood layouts"):
            index_dataset("imagenet-val", data_root=str(tmp_path))

    def test_without_a_root_one_line_says_what_to_set_and_which_layouts_are_understood(self, monkeypatch):
        monkeypatch.delenv("IMAGENET_ROOT", raising=False)
        with pytest.raises(DatasetError) as error:
            index_dataset("imagenet-val")
        for part in ("--data-root", "IMAGENET_ROOT", "val/<wnid>/*.JPEG", "ILSVRC2012_img_val.tar", "ground_truth.txt"):
            assert part in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("file", "text", "reason"),
        [
            ("ILSVRC2012_validation_ground_truth.txt", "490\n0\n", "'0' is no ImageNet class in the numbering"),
            ("val.txt", "ILSVRC2012_val_00000001.JPEG 1000\n", "'1000' is no ImageNet class"),
            ("val.txt", "65\n970\n", "each line must be 'file name, space, class index from 0'"),
        ],
    )
    def test_a_wrong_label_file_is_one_line(self, tmp_path, file, text, reason):
        write(tmp_path / "val", *self.NAMES)
        (tmp_path / file).write_text(text)
        with pytest.raises(DatasetError, match=reason):
            index_dataset("imagenet-val", data_root=str(tmp_path))

    def test_a_folder_that_is_no_class_is_named(self, tmp_path):
        write(tmp_path / "val", f"{TENCH}/a.JPEG", "n99999999/b.JPEG")
        with pytest.raises(DatasetError, match=r"n99999999/b.JPEG does not lie in a folder of an ImageNet class"):
            index_dataset("imagenet-val", data_root=str(tmp_path))

    def test_the_thousand_classes(self):
        wnids = list(label_of_wnid())
        assert wnids == sorted(wnids)  # why class folders in sorted order have the right index
        assert len(set(wnids)) == len(class_names()) == 1000
        assert sorted(label_of_ilsvrc_id()) == list(range(1, 1001))
        assert sorted(label_of_ilsvrc_id().values()) == list(range(1000))
        for number, name in ((1, "kit fox"), (490, "sea snake"), (1000, "dumbbell")):
            assert class_names()[label_of_ilsvrc_id()[number]] == name

    def test_the_classes_are_those_of_torchvision_and_timm(self):
        from jobs.torchvision_shim import torchvision

        assert class_names() == tuple(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"])
        timm = pytest.importorskip("timm", reason="the timm extra is not installed")
        assert tuple(timm.data.ImageNetInfo("imagenet-1k").label_names()) == tuple(label_of_wnid())


def make_tar(path: Path, members: dict[str, bytes], **options) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


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
        with pytest.raises(DatasetError, match=r"label 'cat' of 1.cls is no class index"):
            index_dataset(str(make_tar(tmp_path / "x.tar", {"1.cls": b"cat", "1.png": picture(1)})))

    def test_a_changed_archive_is_noticed(self, tmp_path):
        tar = make_tar(tmp_path / "x.tar", {"a.png": picture(1)})
        index = index_dataset(str(tar)).index
        make_tar(tar, {"a.png": picture(2)})
        os.utime(tar, (1, 1))
        (failure,) = decode_rows(index, SMALL).failures
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
    def write(self, path: Path, start: int, count: int, *, features: bool = True, rows_per_group: int = 3) -> Path:
        images = [{"bytes": picture(n), "path": "same.png"} for n in range(start, start + count)]
        table = pa.table({"image": images, "label": [n % 4 - 1 for n in range(start, start + count)]})
        if features:
            info = {
                "features": {"image": {"_type": "Image"}, "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
            }
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": info})})
        pq.write_table(table, path, row_group_size=rows_per_group)
        return path

    def test_hugging_faces_files(self, tmp_path):
        self.write(tmp_path / "train-00000-of-00002.parquet", 0, 10)
        self.write(tmp_path / "train-00001-of-00002.parquet", 10, 4)
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
        decoded = decode_rows(index_dataset(str(tmp_path / "x.parquet")).index, SMALL)
        assert decoded.rows.tolist() == [0]
        assert [failure.error for failure in decoded.failures] == [
            f"row {row} has no image bytes in column image.bytes" for row in (1, 2)
        ]

    def test_files_that_are_not_alike_or_not_whole(self, tmp_path):
        self.write(tmp_path / "a.parquet", 0, 3)
        pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "b.parquet")
        with pytest.raises(DatasetError, match=r"b.parquet: 0 columns may hold images, one must"):
            index_dataset(str(tmp_path))
        (tmp_path / "b.parquet").write_bytes(b"PAR1 cut off")
        with pytest.raises(DatasetError, match=r"b.parquet is no whole Parquet file"):
            index_dataset(str(tmp_path))

    def test_a_changed_file_is_noticed(self, tmp_path):
        index = index_dataset(str(self.write(tmp_path / "a.parquet", 0, 3))).index
        os.utime(tmp_path / "a.parquet", (1, 1))
        decoded = decode_rows(index, SMALL)
        assert len(decoded.failures) == 3
        assert "changed since it was indexed" in decoded.failures[0].error


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
        assert not decode_rows(index, SMALL).failures

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


class TestSample:
    def test_real_photographs_without_a_download(self):
        pytest.importorskip("skimage", reason="the sample extra is not installed")
        dataset = index_dataset("sample")
        assert len(dataset.index) >= 10
        assert labels(dataset.index)["coffee.png"] == class_names().index("espresso")
        assert not decode_rows(dataset.index, SMALL).failures
        assert dataset.licence

    def test_its_digest_is_that_of_its_files_wherever_they_are_installed(self):
        pytest.importorskip("skimage", reason="the sample extra is not installed")
        assert index_dataset("sample").index["version"].null_count == len(index_dataset("sample").index)

    def test_without_the_extra(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(DatasetError, match=r"pip install 'ascribe\[sample\]'"):
            index_dataset("sample")


class TestNames:
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("imgnet-val", "no file or folder here and no known name; nearest: imagenet-val"),
            ("/no/such/folder", "no file or folder here and no known name; see: cli.py datasets"),
            ("/no/such/*.png", "no file or folder here"),
        ],
    )
    def test_an_unknown_one_gives_the_nearest(self, name, reason):
        with pytest.raises(DatasetError, match=reason):
            index_dataset(name)

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(DatasetError, match="holds no image"):
            index_dataset(str(tmp_path))

    def test_a_relative_name_lies_below_the_data_root(self, tmp_path):
        write(tmp_path / "photos", "a.png")
        assert index_dataset("photos", data_root=str(tmp_path)).name == "photos"

    def test_the_list_names_each_form(self):
        known = " ".join(f"{each.name} {each.description}" for each in known_datasets())
        for form in (
            "sample",
            "imagenet-val",
            "labels.csv",
            "WebDataset",
            "parquet",
            "s3://",
            "cifar10",
            "IMAGENET_ROOT",
        ):
            assert form in known


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
        parquet = TestParquet().write(tmp_path / "x.parquet", 0, 7)
        root = upload({"tars/x.tar": tar.read_bytes(), "rows/x.parquet": parquet.read_bytes()})
        for place, count in (("tars/x.tar", 5), ("tars", 5), ("rows/x.parquet", 7), ("rows", 7)):
            assert numbers(index_dataset(f"{root}/{place}").index) == list(range(count))

    def test_imagenet_val(self, upload):
        names = TestImageNet.NAMES
        root = upload(
            {f"val/{name}": picture(n) for n, name in enumerate(names)}
            | {"ILSVRC2012_validation_ground_truth.txt": b"490\n361\n171\n"}
        )
        TestImageNet().expect(index_dataset("imagenet-val", data_root=root), "ILSVRC2012_validation_ground_truth.txt")

    def test_a_changed_or_missing_object_is_a_failure(self, upload):
        root = upload({"a.png": picture(1), "b.png": picture(2), "c.png": picture(3)})
        index = index_dataset(root).index
        upload({"a.png": picture(9)})  # the same size: the ETag tells
        store, path = bucket(f"{root}/b.png")
        obstore.delete(store, path)
        decoded = decode_rows(index, SMALL)
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


def test_a_million_entries_are_indexed_in_bounded_memory():
    """Objects exist a batch at a time; the peak is the table beside its sorted copy, so 1.3 million rows stay under 1 GiB."""
    code = (
        "import resource, random; from jobs.indexing.entry import Entry, to_table, index_digest\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "numbers = list(range(200_000)); random.Random(0).shuffle(numbers); before = peak()\n"
        "key = 'n{:08d}/ILSVRC2012_{:08d}.JPEG'.format\n"
        "table = to_table(Entry(key(n % 1000, n), '/data/imagenet/train/' + key(n % 1000, n), None, 100_000 + n, n % 1000,"
        " f'{100_000 + n}-1795415669432452159') for n in numbers)\n"
        "assert len(table) == 200_000 and index_digest(table)\n"
        "print((peak() - before) / 200_000)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert float(out.stdout) < 700  # bytes a row: 1.3 million take 0.85 GiB


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in key
