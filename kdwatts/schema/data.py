"""The corpus."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from kdwatts.schema.checks import at_least


@dataclass
class TextSource:
    path: str = MISSING
    """Hub id, `tiny:NAME`, or a local .txt, .txt.xz, .jsonl or .parquet file."""
    name: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    revision: str | None = None
    text_field: str | None = "text"
    messages_field: str | None = None
    """Field with a list of {role, content}; rendered by the tokenizer's chat template."""
    prompt_field: str | None = None
    response_field: str | None = None
    """With `prompt_field`: two fields that become a conversation of two turns."""

    def __post_init__(self) -> None:
        if bool(self.prompt_field) != bool(self.response_field):
            raise ValueError(
                f"data.source.prompt_field={self.prompt_field} with "
                f"response_field={self.response_field}; set both or neither"
            )
        chosen = [n for n in (self.text_field, self.messages_field, self.prompt_field) if n]
        if len(chosen) != 1:
            raise ValueError(
                f"data.source reads {' and '.join(chosen) or 'no field'}; set exactly one of "
                "text_field, messages_field and prompt_field, the others to null"
            )


@dataclass
class Data:
    name: str = MISSING
    source: TextSource = MISSING
    licence: str = MISSING
    num_documents: int | None = None
    """Take only the first documents; None takes all."""
    shard_tokens: int = 16_777_216

    def __post_init__(self) -> None:
        at_least("data.shard_tokens", self.shard_tokens, 1024)
        if self.num_documents is not None:
            at_least("data.num_documents", self.num_documents, 1)
