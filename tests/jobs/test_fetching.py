"""Promises: pictures of a store come several at once and are the same pictures; what was asked of a store while it was away is asked anew."""

import os
import threading

import obstore
import pytest
from pictures import TINY, picture

from jobs.datasets import index_dataset
from jobs.fetching import REQUESTS, Fetcher
from jobs.images import decode_rows
from jobs.indexing.entry import Entry, to_table
from jobs.places import AwayError, bucket
from jobs.reading import is_request
from tests.storage.unreliable import Proxy, before

IMAGES = 2 * REQUESTS


class Gathering(Proxy):
    """Answers for a picture only when as many have been asked for as may be under way at once."""

    waiting, most = 0, 0
    gathered = threading.Condition()

    def do(self):
        cls = type(self)
        if self.command == "GET" and self.path.endswith(".png"):
            with self.gathered:
                cls.waiting += 1
                cls.most = max(cls.most, cls.waiting)
                self.gathered.notify_all()
                self.gathered.wait_for(lambda: cls.most == REQUESTS, timeout=20)
                cls.waiting -= 1
        return super().do()


def test_pictures_of_a_store_are_on_their_way_while_others_are_decoded(s3, tmp_path, monkeypatch):
    root = f"{s3}/fetched-{os.getpid()}"
    for number in range(IMAGES):
        store, path = bucket(f"{root}/{number:02d}.png")
        obstore.put(store, path, picture(number))
        (tmp_path / f"{number:02d}.png").write_bytes(picture(number))
    index = index_dataset(root).index
    with before(os.environ["AWS_ENDPOINT_URL"], Gathering) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setattr("jobs.places._store", _store_at)
        decoded = decode_rows(index, TINY)
    assert Gathering.most == REQUESTS
    assert decoded.failures == ()
    assert (decoded.pixels == decode_rows(index_dataset(str(tmp_path)).index, TINY).pixels).all()


def _store_at(root):
    """Not the store that is kept open, which knows the address that the environment had before."""
    return obstore.store.from_url(root, client_options={"allow_http": True})


class Away:
    """A store that answers when someone has waited once; until then, whoever asks is told that it is away."""

    def __init__(self):
        self.waits, self.asked = [], []

    def read(self, uri, *_):
        self.asked.append(uri)
        if not self.waits:
            raise AwayError("503 Slow Down")
        return picture(int(uri.rpartition("/")[2]))


@pytest.fixture
def away(monkeypatch):
    away = Away()
    monkeypatch.setattr("jobs.fetching.read", away.read)
    monkeypatch.setattr("jobs.images.time.sleep", away.waits.append)
    return away


def index_of(count, place="s3://b"):
    return to_table(Entry(f"{number:02d}", f"{place}/{number}") for number in range(count))


def test_after_a_wait_nobody_believes_what_the_store_said_before(away):
    decoded = decode_rows(index_of(IMAGES), TINY)
    assert decoded.rows.tolist() == list(range(IMAGES))
    assert len(away.waits) == 1


def test_each_picture_is_read_once_where_all_is_well(away):
    away.waits.append(0.0)
    decode_rows(index_of(IMAGES), TINY)
    assert sorted(away.asked) == sorted(f"s3://b/{n}" for n in range(IMAGES))


def test_files_of_this_machine_are_read_when_they_are_asked_for(away):
    away.waits.append(0.0)
    first, *following = index_of(3, "/data").to_pylist()
    with Fetcher() as fetcher:
        fetcher.fetch(first, following)
    assert away.asked == ["/data/0"]


@pytest.mark.parametrize(
    ("uri", "is_one"),
    [
        ("s3://b/a.png", True),
        ("gs://b/x.tar", True),
        ("planes:3x32x32:s3://b/data.bin", True),
        ("parquet:image.bytes:s3://b/x.parquet", False),  # a row group holds many
        ("planes:3x32x32:/data/data.bin", False),
        ("/data/s3:/a.png", False),
        ("file:///data/a.png", False),
    ],
)
def test_what_is_a_request_to_a_store(uri, is_one):
    assert is_request(uri) is is_one
