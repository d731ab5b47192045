"""What a command line asks for, refuses, sends to Slurm and fetches."""
