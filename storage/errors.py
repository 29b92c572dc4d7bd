"""What can go wrong with a run on disk, each as one line that says the way out."""

from __future__ import annotations


class StoreError(ValueError):
    """The store cannot do what was asked; nothing committed was harmed."""


class MissingObjectError(StoreError):
    """An object that was asked for is not there."""


class StoreUnreachableError(StoreError):
    """The store kept failing in a way that may pass, for longer than we wait."""


class FormatError(StoreError):
    """A record is of another version or not one of ours."""


class RunMissingError(StoreError):
    """There is no run at this place."""


class RunExistsError(StoreError):
    """There is a run already, and it is not the one asked for."""


class UnitIncompleteError(StoreError):
    """A unit was to be committed with images that have neither a result nor a failure, or both."""


class CommitLostError(MissingObjectError):
    """A unit is committed, yet what it committed can be found nowhere."""


class QueryError(StoreError):
    """The SQL was refused, failed or took too long."""


class LeaseHeldError(StoreError):
    """Somebody else is running this run."""
