"""Tools beside a run: rebuild the tiny world, read a GGUF file."""
