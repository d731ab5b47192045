"""The tiny world: corpus, tokenizer, teacher and held-out tasks that ship with the package."""
