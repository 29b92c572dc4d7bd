"""Ties the engine and the store together on Ray."""

__version__ = "0.1.0"
