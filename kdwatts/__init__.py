"""Knowledge distillation under a power meter: what a student costs in energy, and what it is worth."""

__version__ = "0.1.0"
