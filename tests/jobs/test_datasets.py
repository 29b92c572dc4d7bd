"""Promises: the same files give the same index wherever and in whatever order they lie; nothing is lost, doubled or read from outside."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import TINY, labels, numbers, picture, write

from jobs.datasets import DatasetError, index_dataset, known_datasets
from jobs.images import decode_rows
from jobs.indexing.entry import SCHEMA, Entry, index_digest, printable, to_table
from jobs.indexing.imagenet_classes import class_names
from jobs.indexing.listing import translate

GOLDFISH, HEN = "n01443537", "n01514859"  # classes 1 and 8


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
        table = to_table(Entry(f"{n:06d}", "/x", label=n % 7) for n in range(70_000))
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

    def test_a_labels_file_that_is_no_text_is_one_line(self, tmp_path):
        write(tmp_path, "a.jpg")
        (tmp_path / "labels.csv").write_bytes(b"key,label\n\xff\xfe,1")
        with pytest.raises(DatasetError, match=r"labels.csv is no text in UTF-8 \(invalid start byte at byte 10\)"):
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
        decoded = decode_rows(index_dataset(str(tmp_path)).index, TINY)
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


class TestSample:
    def test_real_photographs_without_a_download(self):
        pytest.importorskip("skimage", reason="the sample extra is not installed")
        dataset = index_dataset("sample")
        assert len(dataset.index) >= 10
        assert labels(dataset.index)["coffee.png"] == class_names().index("espresso")
        assert not decode_rows(dataset.index, TINY).failures
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


def test_a_million_entries_are_indexed_in_bounded_memory():
    """Objects exist a batch at a time; the peak is the table beside its sorted copy, so a driver of 1.3 million images stays under 1 GiB."""
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
    assert float(out.stdout) < 500  # bytes a row: 1.3 million take 0.6 GiB


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in key
