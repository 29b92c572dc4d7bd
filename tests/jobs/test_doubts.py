"""Promise: a run with the wrong preprocessing or the wrong class mapping is warned about, a good one is not."""

import random

from jobs.doubts import ENOUGH, doubt


def drawn(accuracy, classes, count=400, mapping=None, seed=0):
    rng = random.Random(seed)
    labels = [rng.randrange(classes) for _ in range(count)]
    said = [label if rng.random() < accuracy else rng.randrange(classes) for label in labels]
    return labels, [mapping[s] if mapping else s for s in said]


def test_a_good_model_is_not_doubted():
    for classes in (2, 3, 10, 1000):
        assert doubt(*drawn(0.9, classes), classes) is None


def test_chance_is_doubted():
    for classes in (2, 10, 1000):
        assert "near chance" in doubt(*drawn(0.0, classes), classes)


def test_permuted_labels_are_recognised():
    mapping = [(c + 1) % 10 for c in range(10)]
    assert "permuted" in doubt(*drawn(0.95, 10, mapping=mapping), 10)


def test_a_model_that_always_says_the_same_is_not_called_permuted():
    labels = [i % 10 for i in range(400)]
    assert "preprocessing" in doubt(labels, [3] * 400, 10)


def test_nothing_is_said_before_enough_is_seen():
    labels, said = drawn(0.0, 10)
    assert doubt(labels[: ENOUGH - 1], said[: ENOUGH - 1], 10) is None
