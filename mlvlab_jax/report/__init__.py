"""One static HTML page a run."""
