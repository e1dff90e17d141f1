"""What a run's predictions say: metrics with intervals, slices, calibration, and one run against another."""
