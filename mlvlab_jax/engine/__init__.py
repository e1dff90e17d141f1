"""Training and evaluation: mesh, state, step, checkpoints, and the loop that reads from top to bottom."""
