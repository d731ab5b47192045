"""The tiny world: a corpus, a tokenizer, a teacher and held-out tasks that ship with the package."""
