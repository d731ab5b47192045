"""The corpus: one source of text or a mix of several."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from kdwatts.config.ranges import above_zero, at_least, between, choice
from kdwatts.runtime.paths import check_path


@dataclass
class TextSource:
    """Where text comes from and which columns are read: a data set of a hub, or local files."""

    path: str = MISSING
    """A data set of the hub by its id, `tiny:NAME`, a local file, a folder, or a pattern such as
    `texts/*.jsonl`. Local files are text, JSONL, JSON (each also as .xz) or parquet."""
    name: str | None = None
    """Which configuration of a hub's data set is read. null takes the data set's own default."""
    split: str | None = None
    """Which split of a hub's data set is read. null reads train."""
    revision: str | None = None
    """Commit, tag or branch of a hub's data set. null reads the newest commit, which may change."""
    text_field: str | None = "text"
    """Column that holds plain text. Exactly one of text_field, messages_field and prompt_field is
    set, the others are null."""
    messages_field: str | None = None
    """Column that holds a conversation: a list of {role, content}. The tokenizer's chat template
    renders it. null where the rows are no conversations."""
    prompt_field: str | None = None
    """Column that holds a question. It is the first turn of a conversation of two turns. null where
    the rows have no such column."""
    response_field: str | None = None
    """Column that holds the answer to prompt_field. It is set if and only if prompt_field is."""
    context_field: str | None = None
    """Column that holds a passage which the question is about. It follows the question after a
    blank line. An empty passage is left out. null reads no such column."""
    num_rows: int | None = None
    """Read only so many first rows: for a data set that is too large to read as a whole. Documents
    are drawn from these rows. null reads all rows."""

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
    """One source of a mix, and its share."""

    source: TextSource = MISSING
    """Where this part's text comes from."""
    weight: float = MISSING
    """Share of the mix's tokens, prompts included. The weights of a mix need not add up to 1."""
    licence: str = MISSING
    """Terms of use of the text, as its publisher states them. index.json repeats them."""
    num_documents: int | None = None
    """Draw so many documents of this source. null takes all."""
    max_epochs: int = 1
    """How often this source may be read from its beginning. Then the mix ends."""

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
    """What becomes of documents that hold a text of the evaluation's tasks."""

    mode: str = "off"
    """off looks for nothing. report counts such documents in contamination.json. drop also leaves
    them out of the corpus."""
    ngram: int = 13
    """Words in a row that must be equal to count as found, 13 as in Brown et al. 2020 (GPT-3). In
    scripts of ideographs twice as many are needed. A shorter text must be found whole."""

    def __post_init__(self) -> None:
        choice("data.decontaminate.mode", self.mode, DECONTAMINATE)
        at_least("data.decontaminate.ngram", self.ngram, LEAST_NGRAM)


@dataclass
class Data:
    """The corpus: one source of text, or a mix of several."""

    name: str = MISSING
    """Name of the corpus in records, tables and folder names."""
    source: TextSource | None = None
    """Where the text comes from. null where the corpus is a mix (`sources`)."""
    licence: str = MISSING
    """Terms of use of the text, as its publisher states them. index.json repeats them."""
    num_documents: int | None = None
    """Draw so many documents of `source`. null takes all. In a mix each source has its own
    number."""
    fraction: float = 1.0
    """Share of the documents that is drawn, of each source of a mix. 1 draws all."""
    sample_seed: int = 0
    """Another number draws other documents. The draw depends on this seed and on each document's id
    alone: the column `id`, else a hash of the content. A smaller part lies in every larger one. In
    rows that share an id, the second and later ones are told apart by their content."""
    decontaminate: Decontaminate = field(default_factory=Decontaminate)
    """What becomes of documents that hold a text of the evaluation's tasks."""
    shard_tokens: int = 16_777_216
    """Tokens of one file of the tokenized corpus."""
    sources: list[MixPart] = field(default_factory=list)
    """The parts of a mix, in place of `source`. The mix ends when one part has no more text for its
    share. Empty for a corpus of one source."""

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
