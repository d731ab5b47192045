"""The whole experiment: all groups of settings together."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import MISSING

from kdwatts.config.data import Data
from kdwatts.config.evaluation import Eval
from kdwatts.config.machine import Cluster, Gpu, Launch, Site, StoreRules, Telemetry
from kdwatts.config.pair import Pair
from kdwatts.config.paradigm import Paradigm
from kdwatts.config.ranges import choice
from kdwatts.config.training import Training
from kdwatts.runtime.paths import check_path

STAGES = (
    *("prefetch", "plan", "shards", "contamination", "generate", "teacher"),
    *("distill", "evaluate", "inference"),
)


@dataclass
class Config:
    paradigm: Paradigm = MISSING
    model: Pair = MISSING
    data: Data = MISSING
    gpu: Gpu = MISSING
    training: Training = MISSING
    eval: Eval = MISSING
    telemetry: Telemetry = MISSING
    site: Site = MISSING
    cluster: Cluster = field(default_factory=Cluster)
    launch: Launch = field(default_factory=Launch)
    store: StoreRules = field(default_factory=StoreRules)
    until: str = "inference"
    store_dir: str = MISSING

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
