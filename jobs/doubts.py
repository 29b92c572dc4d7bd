"""The commonest silent mistakes, seen from the first labels and predictions: wrong preprocessing, wrong class mapping."""

from collections import Counter, defaultdict
from collections.abc import Sequence

ENOUGH = 100  # labelled images before anything is said
CHANCES = 5.0  # times chance: a trained model on its own data is far above, a mistaken one near 1


def doubt(labels: Sequence[int], predictions: Sequence[int], class_count: int) -> str | None:
    """One line of warning, or None. Says nothing before it has seen enough."""
    if len(labels) < ENOUGH or class_count < 2:
        return None
    accuracy = sum(label == said for label, said in zip(labels, predictions, strict=True)) / len(labels)
    # With few classes five times chance is past reach: halfway from chance to perfect is asked for.
    if accuracy >= min(CHANCES / class_count, (1 + 1 / class_count) / 2):
        return None
    said_of: dict[int, Counter[int]] = defaultdict(Counter)
    for label, said in zip(labels, predictions, strict=True):
        said_of[label][said] += 1
    repeated = {label: counts for label, counts in said_of.items() if counts.total() > 1}
    # Beyond the one image that would agree with itself: does a class keep getting one and the same wrong name?
    agreeing = sum(counts.most_common(1)[0][1] - 1 for counts in repeated.values())
    pairs = sum(counts.total() - 1 for counts in repeated.values())
    names = {counts.most_common(1)[0][0] for counts in repeated.values()}
    looks_permuted = pairs >= ENOUGH // 2 and agreeing / pairs > 0.5 and len(names) > len(repeated) / 2
    cause = (
        "labels look permuted: is the class mapping the model's?"
        if looks_permuted
        else "is the preprocessing the model's?"
    )
    return f"accuracy on the first {len(labels)} labelled images is {accuracy:.1%}, near chance; {cause}"
