"""The files of a hub's repository that a model or a tokenizer is read from."""

from __future__ import annotations

TOKENIZER_FILES = [
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
    "chat_template*", "config.json",
]  # fmt: skip
MODEL_FILES = ["*.safetensors", "model.safetensors.index.json", "config.json", "generation_config*"]
SUBFOLDERS = ["*/*"]
"""Copies of the weights in other forms."""
