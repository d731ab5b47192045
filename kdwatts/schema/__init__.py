"""The groups of conf/ as dataclasses, one a group, each with its range checks.

These dataclasses alone are not frozen: OmegaConf makes frozen ones read-only and overrides fail.
"""

from kdwatts.config.data import Data, Decontaminate, MixPart, TextSource
from kdwatts.config.evaluation import Eval, EvalTask, InferenceGrid, Lighteval
from kdwatts.config.generation import TEXTS, Generate, OnPolicy
from kdwatts.config.machine import Cluster, Gpu, Launch, Site, StoreRules, Telemetry
from kdwatts.config.pair import Architecture, ModelSource, Pair, TeacherBlocks
from kdwatts.config.paradigm import (
    DISTANCES,
    DIVERGENCES,
    LAYER_MAPS,
    LEVELS,
    PROJECTORS,
    SUPPORTS,
    CrossEntropy,
    Feature,
    Paradigm,
    Relational,
    Response,
)
from kdwatts.config.ranges import choice
from kdwatts.config.training import Lora, Training

__all__ = [
    "DISTANCES",
    "DIVERGENCES",
    "LAYER_MAPS",
    "LEVELS",
    "PROJECTORS",
    "SUPPORTS",
    "TEXTS",
    "Architecture",
    "Cluster",
    "CrossEntropy",
    "Data",
    "Decontaminate",
    "Eval",
    "EvalTask",
    "Feature",
    "Generate",
    "Gpu",
    "InferenceGrid",
    "Launch",
    "Lighteval",
    "Lora",
    "MixPart",
    "ModelSource",
    "OnPolicy",
    "Pair",
    "Paradigm",
    "Relational",
    "Response",
    "Site",
    "StoreRules",
    "TeacherBlocks",
    "Telemetry",
    "TextSource",
    "Training",
    "choice",
]
