"""The corpus: one source of text or a mix of several."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from kdwatts.config.ranges import above_zero, at_least, between, choice
from kdwatts.runtime.paths import check_path


@dataclass
class TextSource:
    path: str = MISSING
    """Hub id, or `tiny:NAME`, a local file, a folder or a pattern such as `texts/*.jsonl`: text,
    JSONL or JSON, each also as .xz, or parquet."""
    name: str | None = None
    """Configuration of a hub data set."""
    split: str | None = None
    """Of a hub data set; None reads train."""
    revision: str | None = None
    text_field: str | None = "text"
    messages_field: str | None = None
    """Field with a list of {role, content}; rendered by the tokenizer's chat template."""
    prompt_field: str | None = None
    response_field: str | None = None
    """With `prompt_field`: two fields that become a conversation of two turns."""
    context_field: str | None = None
    """Beside them, a passage that the prompt asks about: it follows the prompt after a blank line.
    Rows where it is empty or null have none."""
    num_rows: int | None = None
    """Read no further than these first rows, as of a set too large to look at all; None reads on.
    What is drawn of a source is drawn of them."""

    def __post_init__(self) -> None:
        check_path("data.source.path", self.path)
        if bool(self.prompt_field) != bool(self.response_field):
            raise ValueError(
                f"data.source.prompt_field={self.prompt_field} with "
                f"response_field={self.response_field}; set both or neither"
            )
        if self.context_field and not self.prompt_field:
            raise ValueError(
                f"data.source.context_field={self.context_field} without a prompt_field; "
                "set prompt_field and response_field too, or neither"
            )
        if self.num_rows is not None:
            at_least("data.source.num_rows", self.num_rows, 1)
        chosen = [n for n in (self.text_field, self.messages_field, self.prompt_field) if n]
        if len(chosen) != 1:
            raise ValueError(
                f"data.source reads {' and '.join(chosen) or 'no field'}; set exactly one of "
                "text_field, messages_field and prompt_field, the others to null"
            )

    @property
    def split_read(self) -> str:
        """The split that is read of a hub."""
        return self.split or "train"


@dataclass
class MixPart:
    source: TextSource = MISSING
    weight: float = MISSING
    """Its share of the mix's tokens, prompts included, over the sum of all weights."""
    licence: str = MISSING
    num_documents: int | None = None
    """Draw so many documents of this source; None takes all."""
    max_epochs: int = 1
    """How often it may be read from its beginning before the mix ends for want of it."""

    def __post_init__(self) -> None:
        above_zero("data.sources.weight", self.weight)
        at_least("data.sources.max_epochs", self.max_epochs, 1)
        if self.num_documents is not None:
            at_least("data.sources.num_documents", self.num_documents, 1)


DECONTAMINATE = ("off", "report", "drop")
LEAST_NGRAM = 8
"""Shorter runs of words are common speech."""


@dataclass
class Decontaminate:
    """What becomes of documents in which a text of the evaluation's tasks stands."""

    mode: str = "off"
    """report counts them in contamination.json, drop leaves them out too."""
    ngram: int = 13
    """Words in common that make a hit, as Brown et al. 2020 have it, or twice as many ideographs;
    shorter texts as wholes."""

    def __post_init__(self) -> None:
        choice("data.decontaminate.mode", self.mode, DECONTAMINATE)
        at_least("data.decontaminate.ngram", self.ngram, LEAST_NGRAM)


@dataclass
class Data:
    name: str = MISSING
    source: TextSource | None = None
    licence: str = MISSING
    num_documents: int | None = None
    """Draw so many documents of `source`; None takes all. Of a mix each source has a number of its
    own."""
    fraction: float = 1.0
    """Draw this share of the documents, of each source of a mix."""
    sample_seed: int = 0
    """Another one draws other documents. What is drawn depends on it and on their ids alone (the
    field `id` of a row, else a hash of its content; of rows that share an id, of both from the
    second on): a smaller part lies in every larger one."""
    decontaminate: Decontaminate = field(default_factory=Decontaminate)
    shard_tokens: int = 16_777_216
    sources: list[MixPart] = field(default_factory=list)
    """In place of `source`: a mix, which ends when one of them has no more to give its share."""

    def __post_init__(self) -> None:
        if bool(self.source) == bool(self.sources):
            raise ValueError(
                f"data={self.name} has {'both source and' if self.source else 'neither source nor'}"
                " sources; give exactly one of them, the other null or []"
            )
        at_least("data.shard_tokens", self.shard_tokens, 1024)
        if self.num_documents is not None:
            at_least("data.num_documents", self.num_documents, 1)
        if self.num_documents is not None and self.sources:
            raise ValueError(
                f"data.num_documents={self.num_documents} is for a single source, and this corpus "
                "is a mix; set data.fraction, or num_documents of each of data.sources"
            )
        above_zero("data.fraction", self.fraction)
        between("data.fraction", self.fraction, 0, 1)
