"""Watches a served model: what it is asked and what it answers, held against the reference in its package."""
