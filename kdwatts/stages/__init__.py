"""One thin file per stage: its version, the settings in its key, the function that builds it."""
