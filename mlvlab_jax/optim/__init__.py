"""Update rules and learning-rate schedules, built from configuration into one optax chain."""
