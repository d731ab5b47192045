"""Why the ranks of a launch end before their run is done: which of them failed or was lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cause:
    """The rank to blame, and what is to be said of it."""

    rank: int
    host: str | None
    """Its node's, in a launch of several nodes."""
    sentence: str
    """Why the rank failed in its own words, or how it was found lost."""
    is_lost: bool = False
    """Whether it fell silent: it was killed, or its node or network failed. Another turn may go
    well. A rank that said why it fails would fail again."""

    def in_stage(self, stage: str) -> str:
        """The sentence for the status of a run that was in this stage."""
        if not self.is_lost:
            return self.sentence
        where = f"on {self.host}" if self.host else "there"
        return (
            f"{self.sentence} in the stage {stage}; look {where} for what ended it or cut it off, "
            "and run the same command to go on"
        )


@dataclass(frozen=True)
class Place:
    """Where the first rank is in its run: what another needs to say how it ended."""

    run_dir: str
    attempt: int
    max_requeues: int

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.run_dir)


class RankFailed(RuntimeError):
    """Another rank ends the run."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.sentence)
        self.cause = cause


def is_of_connection(error: BaseException) -> bool:
    """Whether an error came of what ranks do together, so that another rank may be its cause.

    Gloo raises a plain RuntimeError, which names its source file; NCCL's and the store's are a
    DistError.
    """
    return any(
        "gloo/transport" in str(one)
        or any(kind.__name__ == "DistError" for kind in type(one).mro())
        for one in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
