"""The groups of conf/ as dataclasses, one a group, each with its range checks.

These dataclasses alone are not frozen: OmegaConf makes frozen ones read-only and overrides fail.
"""

from kdwatts.schema.checks import choice
from kdwatts.schema.data import Data, Decontaminate, MixPart, TextSource
from kdwatts.schema.evaluation import Eval, EvalTask, InferenceGrid, Lighteval
from kdwatts.schema.machine import Cluster, Gpu, Launch, Site, StoreRules, Telemetry
from kdwatts.schema.model import Architecture, ModelSource, Pair, TeacherBlocks
from kdwatts.schema.paradigm import (
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
from kdwatts.schema.training import Lora, Training
from kdwatts.schema.writing import TEXTS, Generate, OnPolicy

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
