"""Where a cluster is reached: which addresses are of the right kind, whether Ray answers there, and its errors in one line each."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from urllib.parse import urlsplit

REACH_S = 10.0  # Ray's own client waits without end
REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class AddressError(ValueError):
    """No Ray Jobs at this address; the message says why and what to give."""


class SilentError(AddressError):
    """Nothing answers, which may pass."""


def address_from_environment() -> str | None:
    """RAY_ADDRESS, unless this process is itself inside a Ray job, where it names the cluster to join."""
    return None if is_inside_job() else os.environ.get("RAY_ADDRESS") or None


def is_inside_job() -> bool:
    """Whether this process is the entrypoint of a Ray job: it then works on that job's cluster."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def headers() -> dict[str, str]:
    """What a proxy before the cluster wants to see, by the variable that Ray's own client reads."""
    text = os.environ.get("RAY_JOB_HEADERS")
    try:
        given = json.loads(text) if text else {}
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise AddressError('RAY_JOB_HEADERS is no JSON object; as in {"X-Proxy-Token": "..."}')
    return {str(name): str(value) for name, value in given.items()}


def check_address(address: str) -> None:
    """Whether it is a whole HTTP address, before anything is sent."""
    if not address.startswith(("http://", "https://")):
        host = address.removeprefix("ray://").split(":", maxsplit=1)[0] or "HEAD"
        raise AddressError(
            f"address {address!r} is not of Ray's Jobs API; give its dashboard, as in http://{host}:8265"
        )
    try:
        parts = urlsplit(address)
        is_whole = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        has_credentials = parts.username is not None
    except ValueError:  # brackets that do not close, a port that is no port
        is_whole = has_credentials = False
    if has_credentials:  # without the value: an address is printed in many a message
        raise AddressError("the address has credentials in it; give them in RAY_JOB_HEADERS or RAY_AUTH_TOKEN")
    if not is_whole:
        raise AddressError(f"address {address!r} names no host and port, as http://HEAD:8265 does")


def reach(address: str) -> None:
    """Whether Ray's dashboard answers there. That it asks for a token is an answer, too."""
    request = urllib.request.Request(f"{address.rstrip('/')}/api/version", headers=headers())  # noqa: S310  checked to be HTTP
    try:
        with urllib.request.urlopen(request, timeout=REACH_S) as answer:  # noqa: S310
            if not _is_rays(answer.read(10_000)):
                raise _no_ray(address, "an answer that is not Ray's")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code not in REFUSALS:
            raise _no_ray(address, f"status {error.code}") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise SilentError(
            f"nothing answers at {address} ({reason}): is the cluster up, and the port forwarded?"
        ) from error


def _is_rays(body: bytes) -> bool:
    try:
        return "ray_version" in json.loads(body)
    except (ValueError, TypeError):
        return False


def _no_ray(address: str, what: str) -> AddressError:
    return AddressError(
        f"{address} is no Ray dashboard ({what} at /api/version); its port is 8265 where none was chosen"
    )


@contextmanager
def speaking(address: str) -> Iterator[None]:
    """Ray's client answers with tracebacks of the server; one line says what it comes to."""
    from ray.exceptions import AuthenticationError
    from requests import RequestException

    needs_token = f"{address} asks for a token (401, 403): set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's"
    try:
        yield
    except AuthenticationError as error:  # its client sees some refusals itself
        raise AddressError(needs_token) from error
    except (ConnectionError, RequestException) as error:
        raise SilentError(f"nothing answers at {address}: is the cluster up, and the port forwarded?") from error
    except RuntimeError as error:
        text = str(error)
        if "401" in text or "nauthorized" in text or "uthentication" in text:
            raise AddressError(needs_token) from error
        if "does not exist" in text or "404" in text:
            raise AddressError(f"{address} knows no such job (see: cli.py list --address {address})") from error
        raise AddressError(f"{address}: {text.strip().splitlines()[-1][:300]}") from error
