"""The whole experiment: all groups of settings together."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import MISSING

from kdwatts.config.data import Data
from kdwatts.config.evaluation import Eval
from kdwatts.config.machine import Cluster, Gpu, Site, StoreRules, SweepLaunch, Telemetry
from kdwatts.config.pair import Pair
from kdwatts.config.paradigm import Paradigm
from kdwatts.config.ranges import choice
from kdwatts.config.training import Training
from kdwatts.runtime.paths import check_path

STAGES = (
    *("prefetch", "plan", "shards", "contamination", "generate", "teacher"),
    *("distill", "quantize", "evaluate", "inference", "serving"),
)


@dataclass
class Config:
    """Everything that one run is asked for."""

    paradigm: Paradigm = MISSING
    """What the student is taught by."""
    model: Pair = MISSING
    """The pair: teacher, student and tokenizer."""
    data: Data = MISSING
    """The corpus."""
    gpu: Gpu = MISSING
    """The GPU that the run expects to find."""
    training: Training = MISSING
    """How the student is trained."""
    eval: Eval = MISSING
    """What student and teacher are scored on, and how serving is measured."""
    telemetry: Telemetry = MISSING
    """How energy is measured."""
    site: Site = MISSING
    """Where the electricity comes from."""
    cluster: Cluster = field(default_factory=Cluster)
    """What a job asks Slurm for."""
    launch: SweepLaunch = field(default_factory=SweepLaunch)
    """How the runs of a sweep are sent out."""
    store: StoreRules = field(default_factory=StoreRules)
    """When the store's artifacts may be reused."""
    until: str = "serving"
    """Stop after this stage. plan prints what the run would take and starts nothing; prefetch
    fetches what the run needs from hubs."""
    store_dir: str = MISSING
    """Folder of the store, which runs share. It is taken from the variable KDWATTS_STORE, or is
    runs/store."""

    def __post_init__(self) -> None:
        choice("until", self.until, STAGES)
        if not self.store_dir.strip():
            raise ValueError(
                "store_dir is empty, in the command or in the variable KDWATTS_STORE; give the "
                "folder of the store, or unset the variable"
            )
        check_path("store_dir", self.store_dir)


def to_dict(group: Any) -> dict[str, Any]:
    """A group's dataclass as plain JSON types, for fingerprints and records."""
    return asdict(group)
