"""Student and teacher: loading, layer maps, vocabulary alignment."""
