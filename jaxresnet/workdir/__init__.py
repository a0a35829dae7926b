"""The run directory: config, checkpoints, log and results."""
