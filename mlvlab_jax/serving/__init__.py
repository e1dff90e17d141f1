"""Serves a model package over HTTP, and from Python."""
