"""What the first rank of a launch tells the others, as JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config, to_dict

if TYPE_CHECKING:
    from kdwatts.stages.work import Work


@dataclass(frozen=True)
class Prepare:
    """What the first rank will build. The others meanwhile prepare as it does."""

    config: Config
    stages: list[str]


@dataclass(frozen=True)
class Measure:
    """The meters begin. The first rank of every other node answers where its own is asked."""

    config: Config
    run_dir: Path
    attempt: int


@dataclass(frozen=True)
class Call:
    """What the first rank needs help with, and all that a rank needs for its part."""

    stage: str
    config: Config
    inputs: dict[str, Path]
    artifact_dir: Path
    scratch_dir: Path
    run_dir: Path
    attempt: int

    @classmethod
    def of(cls, stage: str, work: Work, artifact_dir: Path) -> Call:
        """A call for help with what the first rank builds."""
        return cls(
            stage=stage,
            config=work.config,
            inputs=work.inputs,
            artifact_dir=artifact_dir,
            scratch_dir=work.scratch_dir,
            run_dir=work.run_dir,
            attempt=work.attempt,
        )


@dataclass(frozen=True)
class Built:
    """What ranks built together is there. Each gives the memory of its device back and answers.

    They do so only now: it takes a second in which the node's meter could not answer at the end of
    the window.
    """

    device: str
    """cuda or cpu."""


@dataclass(frozen=True)
class Ended:
    """How the first rank's run ended: done, failed or preempted."""

    state: str


Message = Prepare | Measure | Call | Built | Ended

_KINDS = {kind.__name__: kind for kind in (Prepare, Measure, Call, Built, Ended)}


def to_values(message: Message) -> dict[str, Any]:
    """A message in JSON's types."""
    return {"kind": type(message).__name__, **{k: _plain(v) for k, v in vars(message).items()}}


def from_values(values: Mapping[str, Any]) -> Message:
    """The message that `to_values` made these of."""
    given = {name: _read(name, value) for name, value in values.items() if name != "kind"}
    return _KINDS[values["kind"]](**given)


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        # Why `compile` has its value is no option, so it stands beside them.
        return {"options": to_dict(value), "compile_why": value.training.compile_why}
    if isinstance(value, dict):
        return {name: str(path) for name, path in value.items()}
    return str(value) if isinstance(value, Path) else value


def _read(name: str, value: Any) -> Any:
    if name == "config":
        tree = OmegaConf.merge(OmegaConf.structured(Config), value["options"])
        assert isinstance(tree, DictConfig)
        config = to_config(tree)
        config.training.compile_why = value["compile_why"]
        return config
    if name == "inputs":
        return {parent: Path(path) for parent, path in value.items()}
    return Path(value) if name.endswith("_dir") else value
