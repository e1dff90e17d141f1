"""Typed configuration, validated before jax is imported."""
