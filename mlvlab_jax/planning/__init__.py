"""What a run will need, before anything runs: its step compiled for devices that need not be here."""
