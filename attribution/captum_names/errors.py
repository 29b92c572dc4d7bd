"""What Captum's users expect to be raised: AssertionError as well as ValueError, with the engine's messages."""

from collections.abc import Iterator
from contextlib import contextmanager

from attribution.errors import AttributionError


class ArgumentError(AttributionError, AssertionError):
    """An argument whose form or length does not fit the inputs."""


@contextmanager
def asserting() -> Iterator[None]:
    """Let the engine's errors leave as classes that are AssertionErrors too."""
    try:
        yield
    except AttributionError as error:
        if isinstance(error, AssertionError):
            raise
        kind = type(error)
        # A class of the same name, so that what a user reads stays what the engine said
        raise type(kind.__name__, (kind, AssertionError), {"__doc__": kind.__doc__})(*error.args) from error
