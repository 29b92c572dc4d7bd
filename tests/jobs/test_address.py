"""Promise: an address that is wrong in whatever way costs one line that says what to give, and no endless wait."""

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from jobs import address
from jobs.address import AddressError, SilentError, address_from_environment, check_address, headers, reach, speaking
from jobs.remote import Jobs


@contextlib.contextmanager
def answering(status, body=b"", seen=None):
    """An HTTP server that says this to everyone."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            if seen is not None:
                seen.append((self.path, dict(self.headers)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("wrong", ["ray://head:10001", "head:6379", "auto"])
def test_addresses_of_another_kind_are_refused_with_the_right_one(wrong):
    with pytest.raises(AddressError, match=r"http://(head|auto):8265"):
        check_address(wrong)


@pytest.mark.parametrize("wrong", ["http://", "http://:8265", "http://[::1", "http://head:99999", "http://head:port"])
def test_half_an_address_is_no_address(wrong):
    with pytest.raises(AddressError, match=r"names no host and port, as http://HEAD:8265 does"):
        check_address(wrong)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(AddressError, match="RAY_JOB_HEADERS") as raised:
        check_address("http://user:hush-hush@head:8265")
    assert "hush" not in str(raised.value)


def test_nobody_there_is_one_line():
    with pytest.raises(SilentError, match=r"nothing answers at http://127\.0\.0\.1:9 \(.*refused"):
        Jobs("http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"no such page"), (200, b"<html>a router</html>"), (200, b"[]"), (200, b"7"), (500, b"oh"), (200, b"")],
)
def test_a_server_that_is_not_rays_is_told_so(status, body):
    with answering(status, body) as url, pytest.raises(AddressError, match="is no Ray dashboard"):
        Jobs(url)


@pytest.mark.parametrize("status", [401, 403])
def test_whoever_asks_for_a_token_is_answered_by_how_to_give_it(status):
    with answering(status, b"who are you") as url, pytest.raises(AddressError, match="RAY_AUTH_TOKEN"):
        Jobs(url)


def test_a_server_that_takes_the_call_and_says_nothing_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(address, "REACH_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(SilentError, match="timed out"):
        reach(f"http://127.0.0.1:{deaf.getsockname()[1]}")


def test_a_proxy_before_the_cluster_sees_the_headers_it_wants(monkeypatch):
    monkeypatch.setenv("RAY_JOB_HEADERS", '{"X-Pass": "yes"}')
    seen = []
    with answering(200, b'{"ray_version": "2.60.0"}', seen) as url:
        reach(f"{url}/behind/")
    [(path, sent)] = seen
    assert (path, sent["X-Pass"]) == ("/behind/api/version", "yes")
    monkeypatch.setenv("RAY_JOB_HEADERS", "X-Pass: yes")
    with pytest.raises(AddressError, match="no JSON object"):
        headers()


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


def test_refusal_that_the_client_sees_itself_is_told_like_any_other():
    from ray.exceptions import AuthenticationError

    with pytest.raises(AddressError, match="RAY_AUTH_TOKEN"), speaking("http://head:8265"):
        raise AuthenticationError("Token authentication is enabled")


def test_inside_a_job_the_environments_address_names_the_cluster_to_join(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert address_from_environment() == "http://head:8265"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert address_from_environment() is None
