"""Promise: metric names are one table that follows Prometheus' customs, and labels stay few."""

import re

from jobs.metrics import LABELS, METRICS


def test_names_are_lower_case_and_carry_the_projects_prefix():
    assert all(re.fullmatch(r"ascribe_[a-z_]+", name) for name in METRICS)


def test_exposed_names_are_what_ray_makes_of_them():
    assert METRICS["ascribe_images_done"].exposed == "ray_ascribe_images_done_total"
    assert METRICS["ascribe_workers_alive"].exposed == "ray_ascribe_workers_alive"


def test_the_shard_is_never_a_label():
    assert len(LABELS) <= 3
    assert not {"shard", "unit", "image"} & set(LABELS)
