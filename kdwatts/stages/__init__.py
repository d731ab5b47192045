"""One thin file per stage: its version, the settings that key it, and the function that builds it."""
