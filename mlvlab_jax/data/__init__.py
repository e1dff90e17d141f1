"""From files on disk to sharded batches on the devices."""
