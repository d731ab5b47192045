"""What a command line asks for, refuses, sends to Slurm and fetches."""

from kdwatts.cli.command_line import main

__all__ = ["main"]
