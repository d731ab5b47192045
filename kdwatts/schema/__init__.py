"""The groups of conf/ as dataclasses, one a group, each with its range checks.

These dataclasses alone are not frozen: OmegaConf makes frozen ones read-only and overrides fail.
"""

from kdwatts.schema.checks import choice
from kdwatts.schema.data import Data, TextSource
from kdwatts.schema.evaluation import Eval, EvalTask, InferenceGrid
from kdwatts.schema.machine import Gpu, Site, Telemetry
from kdwatts.schema.model import Architecture, ModelSource, Pair
from kdwatts.schema.paradigm import (
    DISTANCES,
    DIVERGENCES,
    LAYER_MAPS,
    PROJECTORS,
    SUPPORTS,
    CrossEntropy,
    Feature,
    Paradigm,
    Relational,
    Response,
)
from kdwatts.schema.training import Training

__all__ = [
    "DISTANCES",
    "DIVERGENCES",
    "LAYER_MAPS",
    "PROJECTORS",
    "SUPPORTS",
    "Architecture",
    "CrossEntropy",
    "Data",
    "Eval",
    "EvalTask",
    "Feature",
    "Gpu",
    "InferenceGrid",
    "ModelSource",
    "Pair",
    "Paradigm",
    "Relational",
    "Response",
    "Site",
    "Telemetry",
    "TextSource",
    "Training",
    "choice",
]
