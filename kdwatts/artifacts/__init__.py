"""The store, what an artifact is, the hardware in its key, and the manifest of a run."""
