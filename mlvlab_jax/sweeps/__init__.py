"""Searching a space of configurations: one training process a trial, any of which may be stopped and gone on with."""
