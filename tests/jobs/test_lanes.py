"""Promise: copies run beside the computing, and nobody reads what has not come yet; on a GPU as on a device that is made up here.

The made-up device has streams that do nothing until somebody waits for them: a wait left out shows as numbers that never came.
"""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from test_shard import EXPRESSIONS, inquiry, shard

from jobs.decoding import ShardImages
from jobs.lanes import Lanes
from jobs.shard import answers, attribute_shard
from storage.records import Failure, Result

STALE = 113  # what memory holds before a copy has come


class Stream:
    """Copies in the order they were asked for, done as late as can be."""

    def __init__(self):
        self.copies = []

    def until(self, count):
        while count > 0 and self.copies:
            self.copies.pop(0)()
            count -= 1


class Fake:
    """The device is the CPU's memory; what computes is always through with what it was asked, copies never are."""

    def __init__(self):
        self.computing = self.now = Stream()
        self.held = []
        self.clock = 0.0

    def stream(self):
        return Stream()

    def current(self):
        return self.now

    @contextmanager
    def within(self, stream):
        before, self.now = self.now, stream
        yield
        self.now = before

    def event(self, stream):
        self.clock += 1.0
        return stream, len(stream.copies), self.clock

    def wait(self, stream, event):
        other, count, _ = event
        if stream is self.computing:
            other.until(count)
        else:
            assert other is self.computing

    def hold(self, event):
        event[0].until(event[1])

    def seconds(self, start, end):
        return end[2] - start[2]

    def held_by(self, tensor, stream):
        self.held.append((tensor.data_ptr(), stream))

    def pinned(self, shape, dtype):
        return torch.full(shape, STALE, dtype=dtype) if dtype != torch.bool else torch.zeros(shape, dtype=dtype)

    empty = pinned

    def copy(self, into, source):
        self.now.copies.append(lambda: into.copy_(source))


def told(items):
    """Everything of a shard but its time, as text, where no number equals itself."""
    return [item if isinstance(item, Failure) else (item.group, item.rows.tolist(), content(item)) for item in items]


def content(result):
    maps = None if result.maps is None else result.maps.tobytes()
    return maps, {name: str(np.asarray(values)) for name, values in result.summary.items() if name != "seconds"}


def test_pixels_wait_for_nobody_and_whoever_computes_waits_for_them():
    fake = Fake()
    pixels = shard().pixels
    arrival = Lanes(torch.device("cpu"), fake).over(pixels)
    assert (arrival.pixels == STALE).all()  # under way, and this thread did not wait
    assert np.array_equal(arrival.take().numpy(), pixels)
    assert fake.held == [(arrival.pixels.data_ptr(), fake.computing)]


def test_results_come_back_beside_the_computing_and_are_whole_when_waited_for():
    fake = Fake()
    values = torch.arange(5.0)
    landing = Lanes(torch.device("cpu"), fake).back({"values": values})
    assert (landing.results["values"] == STALE).all()
    assert landing.wait()["values"].tolist() == values.tolist()
    assert fake.held[0][0] == values.data_ptr()  # not given to others before it was read


@pytest.mark.parametrize("changes", [{}, {"store": "none"}, {"store": "channel_sum"}, {"keep_bits": 10}])
def test_two_shards_under_way_at_once_are_what_they_are_one_by_one(changes):
    """As a worker has them: the second is sent and computed before the first has landed."""
    asked = inquiry(*EXPRESSIONS, "saliency(target='label')", **changes)
    first, second = shard(5, labels=[3, -1, 0, -1, 1]), shard(4)
    expected = [list(attribute_shard(asked, images)) for images in (first, second)]
    lanes = Lanes(torch.device("cpu"), Fake())
    arrivals = [lanes.over(images.pixels) for images in (first, second)]
    under_way = [list(answers(asked, images, lanes, a)) for images, a in zip((first, second), arrivals, strict=True)]
    for answered, one_by_one in zip(under_way, expected, strict=True):
        items = [item for each in answered for item in each.items()]
        assert told(items) == told(one_by_one)


def test_a_gpus_seconds_are_its_own_clocks_and_the_first_pass_is_shared():
    asked = inquiry("saliency", "input_x_gradient")
    lanes = Lanes(torch.device("cpu"), Fake())
    items = [item for each in answers(asked, shard(), lanes, lanes.over(shard().pixels)) for item in each.items()]
    # By the made-up clock a moment passes with every event: some for each answer, and half of the first pass's.
    assert all(item.summary["seconds"] > 0 for item in items if isinstance(item, Result))


def test_an_empty_shard_sends_nothing_for_answers():
    nothing = ShardImages(np.empty(0, np.int64), (), np.empty(0, np.int64), np.empty((0, 16, 16, 3), np.uint8), (), 0.0)
    lanes = Lanes(torch.device("cpu"), Fake())
    assert list(answers(inquiry("saliency"), nothing, lanes, lanes.over(nothing.pixels))) == []
