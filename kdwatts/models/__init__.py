"""Student and teacher: loading, layer maps, and the vocabulary they share."""
