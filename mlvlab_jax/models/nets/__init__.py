"""The networks themselves, as flax modules."""
