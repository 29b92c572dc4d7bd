"""Promise: what a watcher is told is true of the run, and survives the trip through a log line."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs.progress import Bar, Lines, Rate, Snapshot, duration

snapshots = st.builds(
    Snapshot,
    images=st.integers(0, 10**7),
    done=st.integers(0, 10**7),
    failed=st.integers(0, 10**6),
    under_way=st.floats(0, 1e6),
    images_per_s=st.floats(0, 1e6),
    workers=st.integers(0, 1000),
)


@given(snapshots)
def test_a_snapshot_survives_its_line(snapshot):
    told = Snapshot.from_line(snapshot.line())
    assert (told.images, told.done, told.failed, told.workers) == (
        snapshot.images,
        snapshot.done,
        snapshot.failed,
        snapshot.workers,
    )
    assert abs(told.under_way - snapshot.under_way) < 1e-4  # written to four places: people read the job's log, too
    assert abs(told.images_per_s - snapshot.images_per_s) < 1e-4


def test_a_sentence_says_it_to_people():
    told = Snapshot(images=100, done=40, failed=2, under_way=10, images_per_s=5.0, workers=3).sentence()
    assert told == "40 of 100 images, 2 failed, 5.00/s, ETA 10 s, 3 workers"


def test_other_lines_are_no_snapshots():
    assert Snapshot.from_line("2026-01-01 shard committed shard=3") is None
    assert Snapshot.from_line(Snapshot(images=3, done=1, failed=0).line()[:-9]) is None  # not yet whole
    assert Snapshot.from_line('ASCRIBE_PROGRESS {"images": 3}') is None


def test_the_rate_looks_back_a_minute():
    rate = Rate()
    assert rate.after(0.0, 0) == 0
    assert rate.after(10.0, 20) == pytest.approx(2.0)
    for second in range(11, 200):
        last = rate.after(float(second), 20 + 5 * (second - 10))
    assert last == pytest.approx(5.0)


def test_time_left_is_what_is_left_over_the_rate():
    assert Snapshot(images=100, done=40, failed=0, under_way=10, images_per_s=5.0).eta_s == 10
    assert Snapshot(images=100, done=40, failed=0).eta_s is None


@pytest.mark.parametrize(
    ("seconds", "told"), [(None, "?"), (8.4, "8 s"), (130, "2 min 10 s"), (3900, "1 h 05 min"), (59.7, "1 min 00 s")]
)
def test_durations_read_well(seconds, told):
    assert duration(seconds) == told


def test_the_bar_moves_within_a_shard():
    screen = io.StringIO()
    with Bar(Console(file=screen, force_terminal=True, width=120)) as bar:
        bar.show(Snapshot(images=64, done=0, failed=0, workers=1))
        bar.show(Snapshot(images=64, done=16, failed=2, under_way=7.9, images_per_s=4.0, workers=2))
    assert "23/64" in screen.getvalue()
    assert "4.00/s" in screen.getvalue()
    assert "2 failed" in screen.getvalue()
    assert "2 workers" in screen.getvalue()


def test_lines_come_now_and_then_and_always_at_the_end():
    written = []
    lines = Lines(Snapshot.line, written.append, every_s=1e9)
    for done in (0, 1, 2, 3):
        lines.show(Snapshot(images=3, done=done, failed=0))
    assert [Snapshot.from_line(line).done for line in written] == [0, 3]
