"""What is around a run: driver, GPU, host, store, hub, Slurm, and the pair's plan."""
