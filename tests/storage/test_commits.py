"""Wherever a writer dies, a reader sees whole committed units only, and submitting again gives the undisturbed run."""

import threading

import numpy as np
import pytest

from storage import layout
from storage.errors import CommitLostError
from storage.run import Run
from tests.storage.faults import Crash, connecting, crash_points
from tests.storage.runs import ARRAYS, failure, make_run, map_of, results, write_all, write_unit

FAILED = (5,)


def content(run):
    """Everything that a reader can get of a run: rows as a list, maps as bytes."""
    maps = {spec.group: run.attributions(spec.group)[:].tobytes() for spec in ARRAYS}
    return run.summary().to_pylist(), run.failures().to_pylist(), maps


@pytest.fixture(scope="module")
def undisturbed():
    return content(write_all(make_run("memory://undisturbed"), failed=FAILED))


def check_reader(run, undisturbed):
    """Exactly the rows of the committed units, whatever has been published of them."""
    committed = run.committed()
    images = {image for unit in committed for image in run.unit_rows(unit)}
    assert run.summary().to_pylist() == [row for row in undisturbed[0] if row["image"] in images]
    assert run.failures().to_pylist() == [row for row in undisturbed[1] if row["image"] in images]


@pytest.fixture(params=["memory", "local"])
def place(request, tmp_path_factory):
    """A maker of fresh places; crash points are enumerated where each run costs milliseconds."""
    numbers = iter(range(10**6))
    if request.param == "memory":
        return lambda: f"memory://crash-{id(numbers)}-{next(numbers)}"
    return lambda: str(tmp_path_factory.mktemp("crash") / "run")


def test_a_writer_may_die_at_any_operation(place, undisturbed):
    uris = []

    def write(connect):
        uris.append(place())
        make_run(uris[-1])
        run = Run.open(uris[-1], connect=connect)
        write_unit(run, 0)
        write_unit(run, 1, failed=FAILED)

    points = 0
    for point in crash_points(write):
        run = Run.open(uris[-1])
        check_reader(run, undisturbed)
        if points % 2:  # with and without a recovery first: a retry publishes what it finds committed
            run.recover()
        write_all(run, failed=FAILED)
        run.recover()
        assert content(run) == undisturbed, point
        assert run.verify().is_sound, point
        run.collect_garbage(now_s=1e12)
        assert run.objects.entries(layout.STAGING) == [], point
        points += 1
    assert points > 30  # two units of four objects each are staged, committed, published and unstaged


def test_a_zombie_may_wake_up_at_any_time_after_another_committed(undisturbed):
    for stop in ("create", "publish", "publish done", "delete"):
        uri = f"memory://zombie-{stop}"
        make_run(uri)
        asleep, awake = threading.Event(), threading.Event()

        def fall_asleep(_, verb, key, stop=stop, asleep=asleep, awake=awake):
            if verb == stop and not asleep.is_set():
                asleep.set()
                assert awake.wait(60)

        zombie = Run.open(uri, connect=connecting(fall_asleep))
        thread = threading.Thread(target=write_unit, args=(zombie, 0, "zombie"), kwargs={"salt": 1})
        thread.start()
        assert asleep.wait(60)
        run = Run.open(uri)
        salt = 1 if run.committed() else 2
        assert write_unit(run, 0, "other", salt=2).won is (salt == 2)
        run.recover()
        run.compact()
        before = content(run)
        awake.set()
        thread.join(60)
        assert content(run) == before
        np.testing.assert_array_equal(run.attributions("grad_cam")[0], map_of(ARRAYS[1], 0, salt))
        run.collect_garbage(now_s=1e12)
        assert run.verify().is_sound
        assert run.objects.entries(layout.STAGING) == []


def test_a_create_whose_answer_was_lost_is_still_won():
    uri = "memory://lost-answer"
    make_run(uri)

    class Deaf:
        """The store creates and the answer never comes; the client asks again and hears that the key is taken."""

        def __init__(self, objects):
            self.objects, self.uri = objects, objects.uri

        def __getattr__(self, name):
            return getattr(self.objects, name)

        def create(self, key, content):
            self.objects.create(key, content)
            return False

    from storage.objects import open_objects

    run = Run.open(uri, connect=lambda place: Deaf(open_objects(place)))
    assert write_unit(run, 0).won is True
    assert Run.open(uri).verify().is_sound


def test_a_commit_whose_objects_are_nowhere_is_said_and_mended(uri):
    run = make_run(uri)

    def die(_, verb, key):
        if verb == "create done":
            raise Crash

    with pytest.raises(Crash):
        write_unit(Run.open(uri, connect=connecting(die)), 0)
    run.objects.delete([entry.key for entry in run.objects.entries(layout.STAGING)])
    with pytest.raises(CommitLostError, match="verify with repair"):
        run.summary()
    with pytest.raises(CommitLostError, match="unit 0 is committed but"):
        write_unit(run, 0)
    report = run.verify("sizes")
    assert report.units_to_retract == (0,)
    assert run.repair(report) == [0]
    assert write_all(run).verify().is_sound


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_many_writers_readers_and_a_compactor_at_once(tmp_path, kind):
    uri = str(tmp_path / "run") if kind == "local" else f"memory://{tmp_path.name}-race"
    run = make_run(uri, image_count=40, shard_length=4, arrays=ARRAYS[1:])
    wins, faults, done = [], [], threading.Event()

    def guarded(act):
        def target(*arguments):
            try:
                act(*arguments)
            except BaseException as error:
                faults.append(error)
                raise

        return target

    def write(number):
        mine = Run.open(uri)
        for unit in np.random.default_rng(number).permutation(10):
            out = write_unit(mine, int(unit), f"writer{number}", salt=number)
            if out.won:
                wins.append((int(unit), number))

    def read():
        mine = Run.open(uri)
        while not done.is_set():
            before = mine.committed()
            seen = set(mine.summary()["unit"].to_pylist())
            assert before <= seen <= mine.committed()

    def compact():
        mine = Run.open(uri)
        while not done.is_set():
            mine.compact()

    writers = [threading.Thread(target=guarded(write), args=(number,)) for number in range(4)]
    others = [threading.Thread(target=guarded(act)) for act in (read, compact)]
    for thread in (*others, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in others:
        thread.join()
    assert faults == []
    assert sorted(unit for unit, _ in wins) == list(range(10))
    maps = run.attributions("grad_cam")
    for unit, salt in wins:
        for image in run.unit_rows(unit):
            np.testing.assert_array_equal(maps[image], map_of(ARRAYS[1], image, salt))
    run.compact()
    assert run.summary().num_rows == 40
    assert run.verify().is_sound


def test_failures_are_seen_before_they_are_published(uri):
    run = make_run(uri)

    def die(_, verb, key):
        if verb == "publish" and key.startswith(layout.FAILURES):
            raise Crash

    with pytest.raises(Crash):
        write_unit(Run.open(uri, connect=connecting(die)), 1, failed=[5])
    assert run.failures()["image"].to_pylist() == [5]
    assert run.summary().num_rows == 6
    assert run.recover() == [1]
    assert run.recover() == []
    assert run.failures()["image"].to_pylist() == [5]


def test_results_and_failures_of_two_attempts_never_mix():
    run = make_run("memory://never-mix")
    first = run.writing(0, "first")
    second = run.writing(0, "second")
    with first as one, second as two:
        for result in results(run, 0, without=[1]):
            one.add(result)
        one.fail(failure(1))
        for result in results(run, 0, salt=3):
            two.add(result)
    assert (one.won, two.won) == (False, True)  # the inner block ends first
    assert run.failures().num_rows == 0
    assert run.summary().num_rows == 8
