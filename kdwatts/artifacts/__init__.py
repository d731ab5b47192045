"""The store, what an artifact is, the hardware in its key, and a run's manifest."""
