"""Promise: what goes to a cluster is the spec and nothing else, and a wrong address costs one line."""

import shlex

import pytest

from jobs.remote import (
    AddressError,
    Jobs,
    address_from_environment,
    check_address,
    entrypoint,
    next_attempt,
    shipped_code,
    speaking,
)
from jobs.spec import RunSpec, read_document

SPEC = RunSpec(
    dataset="imagenet-val",
    methods=('ig(at="layer4")',),
    model="resnet50",
    output="s3://bucket/run",
    filter="key <> 'a b'",
)


def test_the_entrypoint_carries_the_spec_through_a_shell():
    words = shlex.split(entrypoint(SPEC))
    assert words[:3] == ["ascribe", "submit", "--spec"]
    assert RunSpec.from_json(read_document(words[3])) == SPEC
    assert shlex.split(entrypoint(SPEC, is_shipped=True))[:2] == ["python", "cli.py"]


@pytest.mark.parametrize("address", ["ray://head:10001", "head:6379", "auto"])
def test_addresses_of_another_kind_are_refused_with_the_right_one(address):
    with pytest.raises(AddressError, match=r"http://(head|auto):8265"):
        check_address(address)


def test_nobody_there_is_one_line():
    with pytest.raises(AddressError, match=r"nothing answers at http://127\.0\.0\.1:9"):
        Jobs("http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("Request failed with status code 401: Unauthorized", "RAY_AUTH_TOKEN"),
        ("Request failed with status code 404: job x does not exist", "knows no such job"),
        ("Traceback\n  File x\nValueError: odd", "ValueError: odd"),
    ],
)
def test_what_the_server_says_becomes_one_line(answer, message):
    with pytest.raises(AddressError, match=message) as raised, speaking("http://head:8265"):
        raise RuntimeError(answer)
    assert "\n" not in str(raised.value)


def test_a_repeated_submit_is_the_next_attempt():
    assert next_attempt("run-1a", []) == 1
    assert next_attempt("run-1a", ["run-1a-1", "run-1a-12", "run-1a-x", "run-2b-99"]) == 13


def test_inside_a_job_the_environments_address_names_the_cluster_to_join(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert address_from_environment() == "http://head:8265"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert address_from_environment() is None


def test_shipped_code_is_small_and_leaves_everything_else_at_home():
    shipped = shipped_code()
    assert {"/tests", "/README.md", "/.git"} <= set(shipped["excludes"])
    assert not {"/jobs", "/storage", "/attribution", "/commands", "/cli.py"} & set(shipped["excludes"])


def test_refusal_that_the_client_sees_itself_is_told_like_any_other():
    from ray.exceptions import AuthenticationError

    with pytest.raises(AddressError, match="RAY_AUTH_TOKEN"), speaking("http://head:8265"):
        raise AuthenticationError("Token authentication is enabled")
