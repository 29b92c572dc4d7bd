"""Law: every chain of faults ends, in success, quarantine or a stated reason; waiting grows and is bounded."""

from hypothesis import given
from hypothesis import strategies as st

from jobs.cases import Cases
from jobs.events import Piece
from jobs.retry import Again, Convict, Fault, GiveUp, History, Limits, Quarantine, Split, backoff, decide, decide_probe

LIMITS = Limits()
RAISED = Fault("raised", "attribute", "ValueError")
DIED = Fault("died", "attribute", "SIGKILL")
STORE = Fault("store", "write", "503")
LOST = Fault("lost", "read", "object lost")
faults = st.sampled_from([RAISED, DIED, STORE, LOST, Fault("overdue", "attribute", "slow")])


def test_three_attempts_then_the_search():
    assert isinstance(decide(DIED, History(charges=2), 32, LIMITS), Again)
    assert decide(DIED, History(charges=3), 32, LIMITS) == Split()
    assert decide(DIED, History(charges=3), 1, LIMITS) == Convict()
    assert decide(DIED, History(charges=3, rounds=2), 32, LIMITS) == Quarantine()


def test_an_error_of_the_method_is_tried_again_at_once_and_a_hiccup_later():
    assert decide(RAISED, History(charges=1), 4, LIMITS) == Again(0.0)
    assert decide(Fault("raised", "read", "timed out"), History(charges=2), 4, LIMITS) == Again(2.0)


def test_a_failing_store_is_waited_for_and_never_blamed_on_images():
    assert decide(STORE, History(store_faults=1), 4, LIMITS) == Again(5.0)
    assert decide(STORE, History(store_faults=3), 4, LIMITS) == GiveUp("the store fails: 503")


def test_lost_images_are_decoded_again_free_of_charge():
    assert decide(LOST, History(losses=10), 4, LIMITS) == Again(0.0)
    assert decide(LOST, History(losses=11, charges=3), 4, LIMITS) == Split()


def test_one_death_convicts_no_image():
    assert isinstance(decide_probe(DIED, 1, 1, LIMITS), Again)
    assert decide_probe(DIED, 2, 1, LIMITS) == Convict()
    assert decide_probe(DIED, 1, 2, LIMITS) == Split()


@given(st.integers(0, 50))
def test_backoff_grows_and_is_bounded(failures):
    assert 0 < backoff(failures) <= backoff(failures + 1) <= 60.0


@given(st.lists(faults, min_size=400, max_size=400), st.integers(1, 33))
def test_a_shard_that_always_fails_ends(sequence, length):
    """Every attempt fails, in any way: within 400 faults all images are convicted or the run gives up."""
    cases, rows = Cases(), range(length)
    due = [Piece(unit=0, rows=rows)]
    for fault in sequence:
        piece = due.pop()
        if not piece.rows and not piece.is_probe:
            assert sorted(culprit.image for culprit in piece.culprits) == list(rows)
            return
        due += [next_piece for _, next_piece in cases.judge(piece, fault, rows, LIMITS, has_twin=False)]
        if cases.hopeless:
            return
    raise AssertionError(f"still trying: {due}")
