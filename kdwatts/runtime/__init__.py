"""Where a process runs: paths, keys for content and code, signals, ranks, Slurm, its streams."""
