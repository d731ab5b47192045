"""What a student is taught by: the terms of the loss and their weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from kdwatts.schema.checks import above_zero, at_least, choice

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
SUPPORTS = ("dense", "top_k")
LAYER_MAPS = ("uniform", "last", "explicit")
PROJECTORS = ("linear", "none")
DISTANCES = ("normalized_mse", "mse", "cosine")


@dataclass
class CrossEntropy:
    weight: float = 1.0

    def __post_init__(self) -> None:
        above_zero("paradigm.ce.weight", self.weight)


@dataclass
class Response:
    weight: float = 1.0
    divergence: str = "forward_kl"
    temperature: float = 1.0
    support: str = "top_k"
    k: int = 64
    beta: float = 0.5
    """Weight of the teacher in the mixture of jsd; other divergences ignore it."""
    teacher_temperatures: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0])
    """Temperatures whose log Z the top-k cache keeps: a sweep over them shares one cache."""

    def __post_init__(self) -> None:
        above_zero("paradigm.response.weight", self.weight)
        choice("paradigm.response.divergence", self.divergence, DIVERGENCES)
        choice("paradigm.response.support", self.support, SUPPORTS)
        above_zero("paradigm.response.temperature", self.temperature)
        for temperature in self.teacher_temperatures:
            above_zero("paradigm.response.teacher_temperatures", temperature)
        at_least("paradigm.response.k", self.k, 1)
        if not 0 < self.beta < 1:
            raise ValueError(f"paradigm.response.beta={self.beta} is not between 0 and 1; try 0.5")
        if self.support == "top_k" and self.divergence != "forward_kl":
            raise ValueError(
                f"paradigm.response.divergence={self.divergence} with support=top_k is unstable: "
                "the teacher's tail is unknown; choose divergence=forward_kl or support=dense"
            )


@dataclass
class Feature:
    weight: float = 1.0
    layers: str = "uniform"
    pairs: list[list[int]] = field(default_factory=list)
    """For layers=explicit: [student block, teacher block] pairs, counted from 0."""
    projector: str = "linear"
    distance: str = "normalized_mse"
    skip_first_position: bool = True
    """First positions are attention sinks whose norm dwarfs the rest."""

    def __post_init__(self) -> None:
        above_zero("paradigm.feature.weight", self.weight)
        choice("paradigm.feature.layers", self.layers, LAYER_MAPS)
        choice("paradigm.feature.projector", self.projector, PROJECTORS)
        choice("paradigm.feature.distance", self.distance, DISTANCES)
        if (self.layers == "explicit") != bool(self.pairs):
            raise ValueError(
                f"paradigm.feature.layers={self.layers} with pairs={self.pairs}; "
                "give pairs with layers=explicit and only then"
            )
        for pair in self.pairs:
            if len(pair) != 2 or min(pair) < 0:
                raise ValueError(
                    f"paradigm.feature.pairs has {pair}; give [student block, teacher block] from 0"
                )


@dataclass
class Relational:
    weight: float = 1.0
    distance_weight: float = 1.0
    angle_weight: float = 2.0
    level: str = "sequence"
    group_size: int = 8
    """Sequences among which distances and angles are taken."""

    def __post_init__(self) -> None:
        above_zero("paradigm.relational.weight", self.weight)
        at_least("paradigm.relational.distance_weight", self.distance_weight, 0)
        at_least("paradigm.relational.angle_weight", self.angle_weight, 0)
        above_zero(
            "paradigm.relational.distance_weight + angle_weight",
            self.distance_weight + self.angle_weight,
        )
        choice("paradigm.relational.level", self.level, ("sequence",))
        at_least("paradigm.relational.group_size", self.group_size, 3)


@dataclass
class Paradigm:
    name: str = MISSING
    text: str = "corpus"
    teacher: str = "cached"
    ce: CrossEntropy | None = None
    response: Response | None = None
    feature: Feature | None = None
    relational: Relational | None = None

    def __post_init__(self) -> None:
        choice("paradigm.text", self.text, ("corpus",))
        choice("paradigm.teacher", self.teacher, ("cached", "online"))
        if self.ce is None and not self.needs_teacher:
            raise ValueError(
                f"paradigm={self.name} has no term; "
                "set at least one of ce, response, feature, relational"
            )

    @property
    def needs_teacher(self) -> bool:
        return any((self.response, self.feature, self.relational))
