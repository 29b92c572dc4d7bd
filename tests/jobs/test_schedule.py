"""Law: whatever the order of completions, deaths, late answers and duplicates, every image ends once, in the store or in failures."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import schedule
from jobs.cases import Case, Cases
from jobs.events import (
    Abort,
    Attribute,
    Decode,
    Decoded,
    Drop,
    Faulted,
    Finish,
    Finished,
    Piece,
    ReleaseWorker,
    Resized,
    Started,
    StartWorker,
    StopWorker,
    WorkerLost,
    WorkerReady,
)
from jobs.retry import Fault, Limits
from jobs.schedule import Policy
from tests.jobs.simulation import World


def rows_of(shard_length, image_count):
    return lambda unit: range(unit * shard_length, min((unit + 1) * shard_length, image_count))


def world(seed, *, images=40, length=4, workers=2, chaos=0, window_images=24, **harm):
    policy = Policy(
        workers=workers, image_bytes=100, window_bytes=100 * window_images, worker_starts=100, hopeless_shards=100
    )
    units = list(range(-(-images // length)))
    random.Random(seed).shuffle(units)
    state = schedule.begin(policy, units, rows_of(length, images), 0.0)
    return World(state, random.Random(seed), chaos=chaos, **harm)


def account(world, images):
    done = [row for rows, _ in world.store.values() for row in rows]
    failed = [row for _, rows in world.store.values() for row in rows]
    assert sorted(done + failed) == list(range(images))
    return set(failed)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    images=st.integers(1, 40),
    length=st.integers(1, 9),
    workers=st.integers(1, 4),
    window_images=st.integers(1, 60),
    chaos=st.integers(0, 30),
    harmful=st.lists(st.tuples(st.integers(0, 39), st.sampled_from(["killers", "raisers", "undecodable"])), max_size=3),
)
def test_every_image_ends_exactly_once(seed, images, length, workers, window_images, chaos, harmful):
    harm = {
        kind: frozenset(i for i, k in harmful if k == kind and i < images)
        for kind in ("killers", "raisers", "undecodable")
    }
    w = world(seed, images=images, length=length, workers=workers, window_images=window_images, chaos=chaos, **harm)
    verdict = w.run()
    if isinstance(verdict, Abort):  # only a store that fails three times over may end a run early
        assert "store" in verdict.reason
        return
    failed = account(w, images)
    assert failed >= frozenset().union(*harm.values())
    assert w.state.failures == len(failed) or chaos


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), harmful=st.sets(st.integers(0, 39), max_size=4), chaos=st.integers(0, 1))
def test_only_the_culprits_are_quarantined(seed, harmful, chaos):
    """One accident beside the harmful images convicts nobody else."""
    w = world(seed, killers=frozenset(harmful), chaos=chaos)
    assert w.run() == Finish()
    assert account(w, 40) == harmful


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), harmful=st.sets(st.integers(0, 39), max_size=2), chaos=st.integers(0, 9))
def test_machines_that_go_and_objects_that_get_lost_convict_nobody(seed, harmful, chaos):
    """However often it hits, within the number of free losses; the culprits are found all the same."""
    w = world(seed, killers=frozenset(harmful), chaos=chaos, kinds=("node", "lost"))
    assert w.run() == Finish()
    assert account(w, 40) == harmful


def test_no_shard_is_decoded_or_attributed_twice_without_need():
    w = world(3)
    assert w.run() == Finish()
    attributed = [action.piece.unit for action in w.log if isinstance(action, Attribute)]
    hedged = len(attributed) - len(set(attributed))
    assert len(set(attributed)) == 10
    assert hedged <= 2


class Hand:
    """Plays the driver by hand, one event at a time."""

    def __init__(self, units=8, length=4, **policy):
        defaults = {"workers": 2, "image_bytes": 1, "window_bytes": 10**6}
        self.state = schedule.begin(
            Policy(**{**defaults, **policy}), range(units), rows_of(length, units * length), 0.0
        )
        self.now = 0.0

    def next(self, kind=object):
        return [action for action in schedule.next(self.state, self.now) if isinstance(action, kind)]

    def tell(self, *events):
        for event in events:
            schedule.observe(self.state, event, self.now)

    def start(self, *slots):
        """Workers ready, two shards each decoded and assigned."""
        actions = self.next()
        self.tell(*[WorkerReady(slot, 0) for slot in slots])
        self.tell(*[Decoded(action.ticket) for action in actions if isinstance(action, Decode)])
        return self.next(Attribute)


def test_each_worker_has_one_shard_running_and_one_at_hand():
    hand = Hand()
    assigned = hand.start(0, 1)
    assert sorted(a.slot for a in assigned) == [0, 0, 1, 1]
    assert [hand.state.flights[a.ticket].phase for a in assigned].count("running") == 2


def test_decodes_are_bounded_in_bytes_but_never_to_none():
    hand = Hand(image_bytes=10, window_bytes=85)
    assert len(hand.next(Decode)) == 2  # 4 images x 10 bytes each: a third would pass 85
    assert len(Hand(image_bytes=10, window_bytes=1).next(Decode)) == 1


def test_decodes_are_bounded_in_number_where_workers_take_the_cores():
    hand = Hand(decodes=2)
    first, second = hand.next(Decode)
    assert not hand.next(Decode)
    hand.tell(Decoded(first.ticket))
    assert len(hand.next(Decode)) == 1
    assert second.ticket in hand.state.flights


def test_a_gpu_has_more_shards_decoded_at_once_than_it_holds():
    hand = Hand(units=100, queue_depth=4, ahead=16)
    assert len(hand.next(Decode)) == 2 * (4 + 16) + 1
    assert len(Hand(units=100, queue_depth=4).next(Decode)) == 2 * 4 * 3 // 2 + 1


def test_hanging_decodes_do_not_block_the_window():
    hand = Hand(units=40)
    decodes = [action for action in hand.next() if isinstance(action, Decode)]
    hand.tell(WorkerReady(0, 0), WorkerReady(1, 0), *[Decoded(d.ticket) for d in decodes[:5]])
    hand.next()
    hung = decodes[5]
    for now in range(1, 400, 10):  # the others keep finishing
        hand.now = float(now)
        for ticket, flight in list(hand.state.flights.items()):
            if flight.phase == "decoding" and ticket != hung.ticket:
                hand.tell(Decoded(ticket))
            elif flight.phase == "running":
                hand.tell(Finished(ticket, flight.piece))
        actions = hand.next()
        if Drop(hung.ticket) in actions:
            break
    else:
        pytest.fail("the hung decode was never given up")
    assert hung.piece.unit in {flight.piece.unit for flight in hand.state.flights.values()} | {
        piece.unit for piece in hand.state.queue if isinstance(piece, Piece)
    }


def test_only_the_running_shard_is_charged_when_a_worker_dies():
    hand = Hand()
    first, second = [a for a in hand.start(0, 1) if a.slot == 0]
    hand.tell(WorkerLost(0, 0, "SIGKILL"))
    cases = hand.state.cases.open
    assert (cases[first.piece.unit].charges, cases[second.piece.unit].charges) == (1, 0)


def test_no_shard_is_charged_when_a_worker_goes_with_its_machine():
    hand = Hand()
    first, second = [a for a in hand.start(0, 1) if a.slot == 0]
    hand.tell(WorkerLost(0, 0, "the node has died", is_innocent=True))
    cases = hand.state.cases
    assert [cases.open[unit].charges for unit in cases.open] == [0]
    assert not any(cases.is_suspect(a.piece) for a in (first, second))  # they need not run alone


def test_the_worker_may_say_which_shard_it_computes():
    hand = Hand()
    first, second = [a for a in hand.start(0, 1) if a.slot == 0]
    hand.tell(Started(second.ticket), WorkerLost(0, 0, "SIGKILL"))
    cases = hand.state.cases.open
    assert (cases[first.piece.unit].charges, cases[second.piece.unit].charges) == (0, 1)


def test_a_probe_that_went_with_its_machine_proves_nothing():
    """Only two deaths of its own convict an image, however many machines went in between."""
    cases, limits = Cases(), Limits()
    probe = Piece(unit=0, rows=(2,), is_probe=True)
    cases.open[0] = case = Case(open_probes=1)
    for kind in ("lost", "died", "lost", "store"):
        [(_, again)] = cases.judge(probe, Fault(kind, "attribute", "gone"), range(4), limits, has_twin=False)
        assert again == probe
    [(_, rest)] = cases.judge(probe, Fault("died", "attribute", "gone"), range(4), limits, has_twin=False)
    assert list(case.culprits) == [2]
    assert rest.rows == [0, 1, 3]


def test_suspects_run_alone():
    hand = Hand()
    lost = {a.piece.unit for a in hand.start(0, 1) if a.slot == 0}
    hand.tell(WorkerLost(0, 0, "SIGKILL"))
    hand.now = 5.0
    hand.next()
    hand.tell(WorkerReady(0, 1))
    for _ in range(3):
        hand.tell(*[Decoded(t) for t, flight in hand.state.flights.items() if flight.phase == "decoding"])
        hand.next()
        for place in hand.state.slots:
            held = {hand.state.flights[ticket].piece.unit for ticket in place.tickets}
            assert len(held) == 1 or not held & lost


def test_generations_replace_each_other_and_the_dead_are_not_heard():
    hand = Hand()
    hand.start(0, 1)
    hand.tell(WorkerLost(0, 0, "gone"), WorkerLost(0, 0, "gone, said twice"))
    hand.now = 5.0
    assert hand.next(StartWorker) == [StartWorker(0, 1)]
    hand.tell(WorkerReady(0, 0))
    assert hand.state.slots[0].phase == "starting"


def test_workers_that_never_start_end_the_run_with_their_reason():
    hand = Hand(workers=1)
    for generation in range(3):
        hand.now += 100.0
        hand.next()
        hand.tell(WorkerLost(0, generation, "weights of resnet50 can't be had"))
    assert hand.next() == [Abort("no worker starts: weights of resnet50 can't be had")]


def test_stall_timeout_counts_from_the_last_sign_of_life():
    hand = Hand(stall_timeout_s=60.0)
    hand.next()
    hand.now = 59.0
    assert not hand.next(Abort)
    hand.now = 61.0
    [abort] = hand.next(Abort)
    assert "no worker was alive for 60 s" in abort.reason


def test_a_long_shard_is_no_stall():
    hand = Hand(stall_timeout_s=60.0)
    hand.start(0, 1)
    hand.now = 5000.0
    assert not hand.next(Abort)


def test_a_shard_past_its_deadline_costs_its_worker():
    hand = Hand(units=20, deadline_s=30.0, warm_up_s=100.0)
    running = [a for a in hand.start(0, 1) if hand.state.flights[a.ticket].phase == "running"]
    hand.now = 99.0  # the first shard of a worker includes its warm-up
    assert not hand.next(StopWorker)
    hand.tell(*[Finished(a.ticket, a.piece) for a in running])
    hand.now = 120.0
    assert not hand.next(StopWorker)
    hand.now = 140.0
    assert {stop.slot for stop in hand.next(StopWorker)} == {0, 1}
    assert all(case.charges <= 1 for case in hand.state.cases.open.values())


def test_what_hangs_from_the_start_does_not_hang_for_ever():
    hand = Hand(units=20, stall_timeout_s=1e6)
    hanging = {action.ticket for action in hand.next(Decode)}
    hand.now = 1799.0
    assert not hand.next(Drop)
    hand.now = 1801.0
    assert {action.ticket for action in hand.next(Drop)} == hanging
    hand = Hand(units=20, stall_timeout_s=1e6)
    hand.start(0, 1)
    hand.now = 6 * 3600.0 + 899.0  # and the warm-up
    assert not hand.next(StopWorker)
    hand.now += 2.0
    assert {stop.slot for stop in hand.next(StopWorker)} == {0, 1}


def test_stragglers_are_hedged_by_idle_workers_near_the_end():
    hand = Hand(units=5, length=1)
    tickets = {a.ticket: a.piece for a in hand.start(0, 1)}
    for now in range(1, 8):
        hand.now = float(now)
        late = [t for t, f in hand.state.flights.items() if f.phase == "running" and f.piece.unit != 0]
        hand.tell(*[Finished(t, hand.state.flights[t].piece) for t in late])
        hand.tell(*[Decoded(t) for t, f in hand.state.flights.items() if f.phase == "decoding"])
        hand.next()
    flying = [flight for flight in hand.state.flights.values() if flight.piece.unit == 0]
    assert len(flying) == 2
    assert flying[0].slot != flying[1].slot
    first = next(t for t in tickets if tickets[t].unit == 0)
    for ticket, flight in list(hand.state.flights.items()):
        if hand.state.slots[flight.slot].tickets[0] != ticket:
            continue
        if flight.piece.unit != 0:
            hand.tell(Finished(ticket, flight.piece))
    hand.tell(Finished(first, tickets[first]), Finished(first, tickets[first]))
    assert 0 not in hand.state.pending


def test_idle_workers_are_let_go_at_the_end_and_come_back_if_work_does():
    hand = Hand(units=3, length=1, workers=3)
    hand.next()
    hand.tell(*[WorkerReady(slot, 0) for slot in range(3)])
    hand.tell(*[Decoded(ticket) for ticket in list(hand.state.flights)])
    assigned = hand.next(Attribute)
    last = assigned[0]
    hand.tell(*[Finished(a.ticket, a.piece) for a in assigned[1:]])
    hand.now = 59.0
    assert not hand.next(ReleaseWorker)
    hand.now = 61.0
    assert {action.slot for action in hand.next(ReleaseWorker)} == {a.slot for a in assigned[1:]}
    hand.now = 500.0
    assert not hand.next(StartWorker)
    hand.tell(WorkerLost(last.slot, 0, "gone"))
    hand.now = 600.0
    assert StartWorker(0, 1) in hand.next()


def test_too_many_failures_end_the_run():
    hand = Hand(max_failures=3)
    a, b, *_ = hand.start(0, 1)
    hand.tell(Finished(a.ticket, a.piece, failures=2))
    assert not hand.next(Abort)
    hand.tell(Finished(b.ticket, b.piece, failures=2))
    assert "4 images failed" in hand.next(Abort)[0].reason


def test_a_mistake_that_is_not_the_images_ends_the_run_early():
    hand = Hand(units=9, length=2)
    hand.start(0, 1)
    for _ in range(40):
        for ticket, flight in list(hand.state.flights.items()):
            if flight.phase == "running":
                hand.tell(Faulted(ticket, Fault("raised", "attribute", "no layer4")))
            elif flight.phase == "decoding":
                hand.tell(Decoded(ticket))
        hand.now += 1.0
        if aborts := hand.next(Abort):
            assert aborts == [Abort("no shard succeeds: no layer4")]
            return
    pytest.fail("it never gave up")


def test_more_room_in_the_cluster_means_more_workers():
    hand = Hand(units=50)
    assert len(hand.next(StartWorker)) == 2
    hand.tell(Resized(5), Resized(3))
    assert [action.slot for action in hand.next(StartWorker)] == [2, 3, 4]


def test_a_run_of_forty_thousand_shards_is_scheduled_in_linear_work():
    """Each step looks at what is under way, never at all shards: 40,000 of them take a few seconds here."""
    hand = Hand(units=40_000, length=1)
    hand.start(0, 1)
    steps = 0
    while hand.state.pending:
        steps += 1
        for ticket, flight in list(hand.state.flights.items()):
            hand.tell(Finished(ticket, flight.piece) if flight.phase == "running" else Decoded(ticket))
        hand.next()
    assert steps <= 40_000
