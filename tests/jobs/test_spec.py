"""Promise: a spec survives JSON and YAML unchanged, refuses what it can't mean, and says the way out."""

import dataclasses
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobs.spec import PLACEMENT, RunSpec, SpecError, parse_assignments, slug

SPEC = RunSpec(dataset="sample", methods=("gradient_shap",), model="resnet18")
counts = st.none() | st.integers(1, 10**6)
specs = st.builds(
    RunSpec,
    dataset=st.text(min_size=1),
    methods=st.lists(st.text(min_size=1), min_size=1, unique=True).map(tuple),
    model=st.text(min_size=1),
    limit=counts,
    filter=st.none() | st.text(),
    seed=st.integers(0, 2**62),
    precision=st.sampled_from(["auto", "float32", "bfloat16"]),
    store=st.sampled_from(["full", "channel_sum", "none"]),
    keep_bits=st.integers(1, 23),
    shard_length=counts,
    workers=counts,
    gpus_per_worker=st.none() | st.floats(0, 8),
    output=st.none() | st.text(),
)


@given(specs)
def test_json_round_trip(spec):
    assert RunSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@given(specs)
def test_yaml_round_trip(spec):
    assert RunSpec.from_json(yaml.safe_load(yaml.safe_dump(spec.to_json()))) == spec


def test_a_whole_run_json_replays(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"run_id": "x", "spec": SPEC.to_json(), "versions": {}}))
    assert RunSpec.from_file(path) == SPEC


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ()}, "at least one method"),
        ({"methods": ("ig", "ig")}, "named twice"),
        ({"dataset": ""}, "dataset is empty"),
        ({"limit": 0}, "limit is 0"),
        ({"limit": "ten"}, "limit is 'ten'; it must be a whole number or nothing"),
        ({"limit": True}, "limit is True"),
        ({"keep_bits": 24}, "keep_bits is 24"),
        ({"store": "all"}, "store is 'all'; it must be one of full, channel_sum, none"),
        ({"precision": "f32"}, "precision is 'f32'"),
        ({"stall_timeout_s": -1.0}, "must not be negative"),
    ],
)
def test_refusals_name_the_value(change, message):
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        dataclasses.replace(SPEC, **change)


def test_an_unknown_field_names_its_neighbours_and_the_version():
    with pytest.raises(SpecError, match=r"unknown field 'keepbits' in version 1; nearest: keep_bits"):
        RunSpec.from_json({**SPEC.to_json(), "keepbits": 3})


def test_another_version_is_refused():
    with pytest.raises(SpecError, match="version 9"):
        RunSpec.from_json({**SPEC.to_json(), "version": 9})


def test_missing_fields_are_named():
    with pytest.raises(SpecError, match="lacks methods, model"):
        RunSpec.from_json({"dataset": "sample"})


def test_set_takes_yaml_values():
    assert parse_assignments(("seed=3", "methods=[ig, saliency]", "filter=label < 10")) == {
        "seed": 3,
        "methods": ("ig", "saliency"),
        "filter": "label < 10",
    }
    assert SPEC.assigned({"seed": 3}).seed == 3
    with pytest.raises(SpecError, match="nearest: seed"):
        SPEC.assigned({"sed": 3})
    with pytest.raises(SpecError, match="no '='"):
        parse_assignments(("seed",))


@pytest.mark.parametrize(("content", "message"), [("[1, 2]", "holds no fields"), ("{a: [", "neither JSON nor YAML")])
def test_bad_spec_files(tmp_path, content, message):
    path = tmp_path / "spec.yaml"
    path.write_text(content)
    with pytest.raises(SpecError, match=message):
        RunSpec.from_file(path)
    with pytest.raises(SpecError, match="can't be read"):
        RunSpec.from_file(tmp_path / "absent.yaml")


def test_request_id_follows_the_question_and_not_the_place():
    elsewhere = dataclasses.replace(SPEC, workers=7, output="s3://b/run", max_failures=3)
    assert elsewhere.request_id() == SPEC.request_id()
    assert dataclasses.replace(SPEC, seed=1).request_id() != SPEC.request_id()
    assert {field.name for field in dataclasses.fields(SPEC)} >= PLACEMENT


@given(st.text())
def test_slugs_fit_everywhere(text):
    assert set(slug(text)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert 1 <= len(slug(text)) <= 24


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("output", "s3://AKIACANARY:hush-hush@bucket/run"),
        ("dataset", "https://example.org/list.csv?X-Amz-Signature=hush-hush"),
        ("data_root", "az://container/x?sig=hush-hush"),
        ("model", "resnet18:https://example.org/w.pt?access_token=hush-hush"),
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(field, value):
    with pytest.raises(SpecError, match=f"{field} has credentials") as caught:
        dataclasses.replace(SPEC, **{field: value})
    assert "hush" not in str(caught.value)
    dataclasses.replace(SPEC, output="abfss://container@account.dfs.core.windows.net/run")
