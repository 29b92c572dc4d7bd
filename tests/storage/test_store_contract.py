"""The promises that the commit protocol needs of a store, kept alike by a disk, by memory and by S3."""

import threading

import pytest

from storage.errors import MissingObjectError, StoreError
from storage.objects import open_objects


def test_what_is_put_can_be_read_whole_and_in_part(objects):
    objects.put("a/b.bin", b"0123456789")
    assert objects.get("a/b.bin") == b"0123456789"
    assert objects.get_range("a/b.bin", 2, 3) == b"234"
    assert objects.get_range("a/b.bin", -4, 2) == b"67"
    assert objects.get_range("a/b.bin", -4, 4) == b"6789"
    assert objects.size("a/b.bin") == 10


def test_put_replaces_as_a_whole(objects):
    objects.put("a", b"long content")
    objects.put("a", b"")
    assert objects.get("a") == b""


def test_what_is_missing_is_said_by_name(objects):
    assert objects.size("no/thing") is None
    for read in (lambda: objects.get("no/thing"), lambda: objects.get_range("no/thing", 0, 1)):
        with pytest.raises(MissingObjectError, match="no/thing is not there"):
            read()
    with pytest.raises(MissingObjectError, match="no/source"):
        objects.publish("no/source", "there")


def test_of_many_creators_exactly_one_wins(objects):
    wins, barrier = [], threading.Barrier(6)

    def create(name):
        barrier.wait()
        if objects.create("commits/1.json", name):
            wins.append(name)

    threads = [threading.Thread(target=create, args=(b"%d" % number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert objects.get("commits/1.json") == wins[0]


def test_create_never_replaces(objects):
    assert objects.create("x", b"first")
    assert not objects.create("x", b"second")
    assert objects.get("x") == b"first"


def test_publish_is_idempotent_and_outlives_its_source(objects):
    objects.put("_staging/1", b"content")
    objects.publish("_staging/1", "deep/down/final")
    objects.publish("_staging/1", "deep/down/final")
    objects.delete(["_staging/1"])
    assert objects.get("deep/down/final") == b"content"
    assert [entry.key for entry in objects.entries("deep")] == ["deep/down/final"]
    assert objects.entries("_staging") == []


def test_publish_replaces_what_lies_there_from_another_source(objects):
    objects.put("final", b"stray")
    objects.put("_staging/1", b"content")
    objects.publish("_staging/1", "final")
    objects.publish("_staging/1", "final")
    assert objects.get("final") == b"content"
    assert [entry.key for entry in objects.entries("_staging")] == ["_staging/1"]


def test_clear_takes_a_folder_and_no_other(objects):
    for key in ("f/a/b", "f/c", "f2/d", "e"):
        objects.put(key, b"")
    objects.clear("f")
    objects.clear("nothing")
    assert [entry.key for entry in objects.entries("")] == ["e", "f2/d"]


def test_entries_are_sorted_deep_and_only_of_that_folder(objects):
    for key in ("f/b", "f/a/c", "f2/x", "g"):
        objects.put(key, key.encode())
    assert [(entry.key, entry.size) for entry in objects.entries("f")] == [("f/a/c", 5), ("f/b", 3)]
    assert objects.keys("f") == ["f/a/c", "f/b"]
    assert objects.entries("nothing") == objects.keys("nothing") == []
    assert all(entry.modified_s > 1.6e9 for entry in objects.entries("f"))  # after 2020, by any clock


def test_delete_takes_what_is_there_and_does_not_mind_the_rest(objects):
    for key in ("a", "b", "c"):
        objects.put(key, b"")
    objects.delete(["a", "missing", "b"])
    objects.delete([])
    assert [objects.size(key) for key in ("a", "b", "c")] == [None, None, 0]


def test_a_listing_of_more_than_one_page(objects):
    keys = [f"many/{number:04d}" for number in range(1100)]  # an S3 page holds 1,000
    for key in keys:
        objects.put(key, b"")
    assert [entry.key for entry in objects.entries("many")] == keys
    objects.delete(keys)
    assert objects.entries("many") == []


def test_two_openings_of_one_place_see_each_other(uri):
    open_objects(uri).put("a", b"1")
    assert open_objects(uri).get("a") == b"1"


def test_a_store_lets_nothing_behind_beside_what_was_put(tmp_path):
    objects = open_objects(tmp_path)
    objects.put("a", b"1")
    objects.create("b", b"1")
    objects.create("b", b"2")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a", "b"]


def test_content_is_flushed_before_it_gets_its_name_and_a_commit_s_name_too(tmp_path, flushes):
    objects = open_objects(tmp_path)
    objects.put("a", b"1")
    assert len(flushes) == 1
    objects.create("b", b"1")
    assert len(flushes) == 3


def test_file_uris_and_paths_are_the_same_place(tmp_path):
    open_objects(f"file://{tmp_path}/a%20b").put("x", b"1")
    assert (tmp_path / "a b" / "x").read_bytes() == b"1"


@pytest.mark.parametrize("uri", ["s3://key:secret@bucket/run", "s3://bucket/run?secret=1"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri):
    with pytest.raises(StoreError, match="environment") as error:
        open_objects(uri)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("uri", ["ftp://host/run", "http://host/run"])
def test_an_unknown_scheme_names_the_known_ones(uri):
    with pytest.raises(StoreError, match="s3://, gs:// or az://"):
        open_objects(uri)
