"""Plan, write, crash at any operation, resume, zombies, compaction, retraction, merging readers: a run equals a dict.

The model is a dict from unit to the salt of the attempt that committed it. After a crash the model asks the run which of the two
allowed things happened; everything else it must know by itself.
"""

import uuid

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage.run import Run
from tests.storage.faults import Crash, connecting, crash_at
from tests.storage.runs import CAM, failure, make_run, map_of, results

UNITS = 4
units = st.integers(0, UNITS - 1)
moments = st.just(10**6) | st.integers(
    0, 40
)  # operations of a commit, a compaction or a retraction: half of them finish
failing = st.sampled_from([(), (0,), (1, 2), (0, 1, 2)])  # images of the unit, by position


class RunMachine(RuleBasedStateMachine):
    @initialize()
    def plan(self):
        self.uri = f"memory://machine-{uuid.uuid4().hex}"
        self.run = make_run(self.uri, image_count=3 * UNITS - 1, shard_length=3, arrays=(CAM,))
        self.model = {}  # unit -> (salt, failed images)
        self.attempts = 0
        self.sleeping = []  # zombies: writers that have everything and did not commit yet

    def collect(self, run, unit, failed):
        """A writer with everything in hand, and what it would commit."""
        self.attempts += 1
        images = [image for position, image in enumerate(run.unit_rows(unit)) if position in failed]
        block = run.writing(unit, f"attempt{self.attempts}")
        out = block.__enter__()
        for result in results(run, unit, without=images, salt=self.attempts):
            out.add(result)
        for image in images:
            out.fail(failure(image))
        return block, out, unit, (self.attempts, tuple(images))

    def commit(self, block, out, unit, answer):
        before = self.model.get(unit)
        try:
            block.__exit__(None, None, None)
        except Crash:
            if before is None and unit in Run.open(self.uri).committed():
                self.model[unit] = answer
            return
        assert out.won is (before is None)
        self.model.setdefault(unit, answer)

    @rule(unit=units, failed=failing)
    def write(self, unit, failed):
        self.commit(*self.collect(self.run, unit, failed))

    @rule(unit=units, failed=failing, moment=moments)
    def write_and_die(self, unit, failed, moment):
        dying = Run.open(self.uri)
        writer = self.collect(dying, unit, failed)
        writer[1]._objects = connecting(crash_at(moment))(self.uri)
        self.commit(*writer)

    @rule(unit=units, failed=failing)
    def fall_asleep(self, unit, failed):
        self.sleeping.append(self.collect(Run.open(self.uri), unit, failed))

    @precondition(lambda self: self.sleeping)
    @rule(number=st.integers(0, 9))
    def wake_up(self, number):
        self.commit(*self.sleeping.pop(number % len(self.sleeping)))

    def perhaps_dying(self, moment, act):
        try:
            act(Run.open(self.uri, connect=connecting(crash_at(moment + 1))))  # the first operation opens the run
        except Crash:
            return False
        return True

    @rule(moment=moments)
    def compact(self, moment):
        self.perhaps_dying(moment, lambda run: run.compact())

    @rule(moment=moments)
    def recover(self, moment):
        self.perhaps_dying(moment, lambda run: run.recover())

    @rule(moment=moments)
    def collect_garbage(self, moment):
        self.perhaps_dying(moment, lambda run: run.collect_garbage(now_s=1e12))

    @rule(unit=units, moment=moments, harm=st.sampled_from(["flip", "remove"]))
    def damage_and_repair(self, unit, moment, harm):
        """Repair is not for beside writers: what sleeps through it has its own attempt, which nothing here touches."""
        self.run.recover()
        if unit not in self.model:
            return
        key = next(stored.key for stored in self.run.commit_of(unit).objects if "attribution/" in stored.key)
        if harm == "remove":
            self.run.objects.delete([key])
        else:
            content = bytearray(self.run.objects.get(key))
            content[len(content) // 2] ^= 1
            self.run.objects.put(key, bytes(content))
        report = self.run.verify()
        assert report.units_to_retract == (unit,)
        finished = self.perhaps_dying(moment, lambda run: run.repair(report))
        self.run.recover()
        if finished or unit not in self.run.committed():
            assert unit in self.run.pending()
            del self.model[unit]
        else:  # died before anything was said: the damage is still there to be found
            self.run.repair(self.run.verify())
            del self.model[unit]

    @invariant()
    def a_reader_sees_exactly_the_model(self):
        if not hasattr(self, "model"):
            return
        reader = Run.open(self.uri)
        assert reader.committed() == self.model.keys()
        assert reader.pending() == sorted(set(range(UNITS)) - self.model.keys())
        rows = {row["image"]: row for row in reader.summary().to_pylist()}
        failed = reader.failures()["image"].to_pylist()
        answers = {}
        for unit, (salt, images) in self.model.items():
            answers |= {image: salt for image in reader.unit_rows(unit) if image not in images}
        assert rows.keys() == answers.keys()
        for image, salt in answers.items():
            assert rows[image]["abs_sum"] == np.abs(map_of(CAM, image, salt)).sum(dtype=np.float64).astype(np.float32)
        assert failed == sorted(image for _, images in self.model.values() for image in images)

    def teardown(self):
        if not hasattr(self, "model"):
            return
        for zombie in self.sleeping:
            self.commit(*zombie)
        run = Run.open(self.uri)
        run.recover()
        for unit in run.pending():
            self.commit(*self.collect(run, unit, ()))
        run.compact()
        run.collect_garbage(now_s=1e12)
        assert run.verify().is_sound
        assert run.objects.entries("_staging") == []
        maps = run.attributions("grad_cam")
        for unit, (salt, images) in self.model.items():
            for image in run.unit_rows(unit):
                expected = np.full(CAM.shape, np.nan) if image in images else map_of(CAM, image, salt)
                np.testing.assert_array_equal(maps[image], expected)
        assert run.progress().failed == sum(len(images) for _, images in self.model.values())


TestRunMachine = RunMachine.TestCase
TestRunMachine.settings = settings(
    max_examples=40, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
