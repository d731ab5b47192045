"""Knowledge distillation under a power meter: what a student costs in energy and is worth."""

__version__ = "0.1.0"
