"""Records are frozen, versioned, equal their own round trip, and refuse what they do not know."""

import json
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import FormatError
from storage.records import (
    ArraySpec,
    Commit,
    Compaction,
    Failure,
    RunRecord,
    StoredObject,
    from_json,
    to_json,
)

names = st.from_regex(r"[a-z][a-z0-9_]{0,10}(-[2-9])?", fullmatch=True)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
mappings = st.dictionaries(st.text(), plain, max_size=3)
stored_objects = st.builds(StoredObject, key=st.text(), size=st.integers(0, 2**60), sha256=st.text())


@st.composite
def array_specs(draw):
    shape = draw(st.lists(st.integers(1, 2048), max_size=4))
    dims = [f"d{axis}" for axis in range(len(shape))]
    return ArraySpec(group=draw(names), expression=draw(st.text()), dims=dims, shape=shape, attributes=draw(mappings))


records = st.one_of(
    array_specs(),
    stored_objects,
    st.builds(
        Commit,
        unit=st.integers(0, 10**7),
        attempt=names,
        run=st.text(),
        objects=st.lists(stored_objects, max_size=3),
        summary_rows=st.integers(0, 100),
        failure_rows=st.integers(0, 100),
        failed_images=st.integers(0, 100),
        marks=mappings,
    ),
    st.builds(
        Compaction,
        generation=st.integers(1, 10**6),
        units=st.lists(st.tuples(st.integers(0, 9), st.integers(10, 19)), max_size=3),
        summary=st.none() | stored_objects,
        failures=st.none() | stored_objects,
        summary_rows=st.integers(0, 100),
        failure_rows=st.integers(0, 100),
        failed_images=st.dictionaries(st.integers(0, 9), st.integers(1, 9)),
    ),
    st.builds(
        RunRecord,
        spec=mappings,
        arrays=st.lists(array_specs(), min_size=1, max_size=3, unique_by=lambda spec: spec.group),
        image_count=st.integers(1, 10**7),
        shard_length=st.integers(1, 1024),
        store=st.sampled_from(["full", "channel_sum", "none"]),
        keep_bits=st.integers(1, 23),
        objects=st.lists(stored_objects, max_size=2),
        origin=mappings,
    ),
)


@given(records)
def test_a_record_equals_its_round_trip_and_its_json_is_canonical(record):
    text = to_json(record)
    assert from_json(type(record), text) == record
    assert to_json(from_json(type(record), text)) == text


SPEC = ArraySpec(group="saliency", expression="saliency()", dims=("channel", "y", "x"), shape=(3, 4, 4))


def test_golden_json():
    assert json.loads(to_json(SPEC)) == {
        "version": 1,
        "kind": "ArraySpec",
        "group": "saliency",
        "expression": "saliency()",
        "dims": ["channel", "y", "x"],
        "shape": [3, 4, 4],
        "attributes": {},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2; this ascribe reads version 1"),
        ({"colour": 1}, "unknown fields: colour"),
        ({"kind": "Commit"}, "a Commit record where a ArraySpec record belongs"),
        ({"dims": None}, "incomplete"),
    ],
)
def test_what_is_not_known_is_refused_by_name(change, message):
    content = {**json.loads(to_json(SPEC)), **change}
    content = {name: value for name, value in content.items() if value is not None}
    with pytest.raises(FormatError, match=message):
        from_json(ArraySpec, json.dumps(content).encode())


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"nonsense", b"\xff"])
def test_what_is_no_record_is_said_to_be_none(text):
    with pytest.raises(FormatError, match="not a Commit record"):
        from_json(Commit, text)


@pytest.mark.parametrize("group", ["", "..", ".hidden", "a/b", "../x", "a b", "__x", "a\n"])
def test_a_group_name_cannot_leave_the_run_directory(group):
    with pytest.raises(FormatError, match="group name"):
        ArraySpec(group=group, expression="x", dims=("y",), shape=(1,))


@pytest.mark.parametrize(
    ("dims", "shape"), [(("y",), (1, 2)), (("y", "y"), (2, 2)), (("image",), (2,)), (("y",), (0,))]
)
def test_dims_and_shape_must_fit(dims, shape):
    with pytest.raises(FormatError, match="group g"):
        ArraySpec(group="g", expression="x", dims=dims, shape=shape)


def test_a_failure_names_a_known_stage_and_records_are_frozen():
    with pytest.raises(FormatError, match="'lunch' is none of read, decode"):
        Failure(image=0, key="a", method=None, stage="lunch", error="", attempts=1)
    with pytest.raises(FrozenInstanceError):
        SPEC.group = "other"


@pytest.mark.parametrize(
    ("field", "value"), [("keep_bits", 0), ("keep_bits", 24), ("shard_length", 0), ("store", "half"), ("arrays", ())]
)
def test_a_run_record_refuses_what_cannot_be(field, value):
    good = {"spec": {}, "arrays": (SPEC,), "image_count": 4, "shard_length": 2, "store": "full", "keep_bits": 10}
    with pytest.raises(FormatError):
        RunRecord(**{**good, "objects": (), field: value})


def test_a_spec_must_be_json():
    with pytest.raises(FormatError, match="not JSON"):
        RunRecord(
            spec={"x": object()}, arrays=(SPEC,), image_count=1, shard_length=1, store="full", keep_bits=23, objects=()
        )
