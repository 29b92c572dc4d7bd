"""Ties the engine and the store together on Ray."""
