"""S3 as moto's server on this machine plays it: one server for all tests of a session."""

import socket
import subprocess
import sys
import time
import urllib.request

import pytest

BUCKET = "ascribe-tests"


@pytest.fixture(scope="session")
def s3():
    """A bucket of moto's server; ended by its own handle."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    variables = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in variables.items():
            environment.setenv(name, value)
        environment.setenv("NO_PROXY", "127.0.0.1")
        try:
            _wait_for(endpoint, server)
            request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
            urllib.request.urlopen(request, timeout=30).close()
            yield f"s3://{BUCKET}"
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_for(endpoint, server):
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except OSError:
            assert server.poll() is None, "moto's server ended"
            assert time.monotonic() < deadline, "moto's server does not answer"
            time.sleep(0.1)
        else:
            return
