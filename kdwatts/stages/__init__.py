"""One thin file per stage: its version, the settings that key it, the function that builds it."""
