"""What a student is taught by: the terms of the loss and their weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from kdwatts.config.generation import TEXTS, Generate, OnPolicy
from kdwatts.config.ranges import above_zero, at_least, choice, choice_or_plugin
from kdwatts.runtime import plugins

DIVERGENCES = (
    "forward_kl",
    "reverse_kl",
    "jsd",
    "skew_kl",
    "skew_reverse_kl",
    "total_variation",
    "universal",
)
SUPPORTS = ("dense", "top_k", "sampled")
LAYER_MAPS = ("uniform", "last", "explicit", "cka")
PROJECTORS = ("linear", "mlp", "none")
DISTANCES = ("normalized_mse", "mse", "cosine")
LEVELS = ("sequence", "token", "attention")


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
    num_samples: int = 50
    """For support=sampled: tokens drawn at each position; about a quarter of them are distinct."""
    beta: float = 0.5
    """Weight of the teacher in the mixture of jsd; others that ship ignore it."""
    skew: float = 0.1
    """Weight of the first distribution in the mixture of skew_kl and skew_reverse_kl."""
    teacher_temperatures: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0])
    """Temperatures whose log Z the top-k cache keeps: a sweep over them shares one cache."""
    cache_precision: str = "u8"
    """How the top-k cache keeps log-probabilities: u8 changes a loss by under a thousandth, f16 by
    under a ten-thousandth at a third more bytes."""

    def __post_init__(self) -> None:
        above_zero("paradigm.response.weight", self.weight)
        choice_or_plugin(
            "paradigm.response.divergence", self.divergence, DIVERGENCES, plugins.DIVERGENCES
        )
        choice("paradigm.response.support", self.support, SUPPORTS)
        choice("paradigm.response.cache_precision", self.cache_precision, ("u8", "f16"))
        above_zero("paradigm.response.temperature", self.temperature)
        for temperature in self.teacher_temperatures:
            above_zero("paradigm.response.teacher_temperatures", temperature)
        at_least("paradigm.response.k", self.k, 1)
        at_least("paradigm.response.num_samples", self.num_samples, 1)
        for name, value, advice in (("beta", self.beta, 0.5), ("skew", self.skew, 0.1)):
            if not 0 < value < 1:
                raise ValueError(
                    f"paradigm.response.{name}={value} is not between 0 and 1; try {advice}"
                )
        if self.support != "dense" and self.divergence != "forward_kl":
            raise ValueError(
                f"paradigm.response.divergence={self.divergence} with support={self.support} is "
                "unstable: the teacher's tail is unknown; choose divergence=forward_kl or "
                "support=dense"
            )


@dataclass
class Feature:
    weight: float = 1.0
    layers: str = "uniform"
    pairs: list[list[int]] = field(default_factory=list)
    """For layers=explicit: [student block, teacher block] pairs, counted from 0."""
    num_pairs: int = 0
    """For layers=cka: how many pairs to choose; 0 takes as many as the shallower model allows."""
    projector: str = "linear"
    share_projector: bool = False
    """One projector for all pairs in place of one each."""
    distance: str = "normalized_mse"
    positions: int = 0
    """Sampled positions of each row that are compared, the first never among them; 0 takes all."""
    skip_first_position: bool = True
    """First positions are attention sinks whose norm dwarfs the rest."""

    def __post_init__(self) -> None:
        above_zero("paradigm.feature.weight", self.weight)
        choice_or_plugin("paradigm.feature.layers", self.layers, LAYER_MAPS, plugins.LAYER_MAPS)
        choice("paradigm.feature.projector", self.projector, PROJECTORS)
        choice_or_plugin("paradigm.feature.distance", self.distance, DISTANCES, plugins.DISTANCES)
        at_least("paradigm.feature.num_pairs", self.num_pairs, 0)
        at_least("paradigm.feature.positions", self.positions, 0)
        if (self.layers == "explicit") != bool(self.pairs):
            raise ValueError(
                f"paradigm.feature.pairs={self.pairs} does not go with layers={self.layers}; "
                "give pairs for layers=explicit only"
            )
        for pair in self.pairs:
            if len(pair) != 2 or min(pair) < 0:
                raise ValueError(
                    f"paradigm.feature.pairs has {pair}; give [student block, teacher block] from 0"
                )
        if self.num_pairs and self.layers != "cka":
            raise ValueError(
                f"paradigm.feature.num_pairs={self.num_pairs} does not go with "
                f"layers={self.layers}, which sets the number itself; leave it at 0 or choose "
                "layers=cka"
            )
        if self.share_projector and self.projector == "none":
            raise ValueError(
                "paradigm.feature.share_projector=true with projector=none leaves nothing to "
                "share; choose projector=linear or mlp"
            )
        if self.positions and not self.skip_first_position:
            raise ValueError(
                f"paradigm.feature.positions={self.positions} with skip_first_position=false: "
                "sampling never draws the first position; set positions=0 or skip it"
            )


@dataclass
class Relational:
    weight: float = 1.0
    level: str = "sequence"
    distance_weight: float = 1.0
    angle_weight: float = 2.0
    group_size: int = 8
    """For level=sequence: sequences among which distances and angles are taken."""
    tokens: int = 32
    """For level=token: sampled positions of a sequence among which they are taken."""
    relation_heads: int = 8
    """For level=attention: parts that queries, keys and values are split into, in both models."""
    teacher_block: int = -1
    """For level=attention: the block that the student's last block copies, from 0; -1 the last."""

    def __post_init__(self) -> None:
        above_zero("paradigm.relational.weight", self.weight)
        at_least("paradigm.relational.distance_weight", self.distance_weight, 0)
        at_least("paradigm.relational.angle_weight", self.angle_weight, 0)
        above_zero(
            "paradigm.relational.distance_weight + angle_weight",
            self.distance_weight + self.angle_weight,
        )
        choice("paradigm.relational.level", self.level, LEVELS)
        # Two embeddings have one distance, which is its own mean, and no angle.
        at_least("paradigm.relational.group_size", self.group_size, 3)
        at_least("paradigm.relational.tokens", self.tokens, 3)
        at_least("paradigm.relational.relation_heads", self.relation_heads, 1)
        at_least("paradigm.relational.teacher_block", self.teacher_block, -1)


@dataclass
class Paradigm:
    name: str = MISSING
    text: str = "corpus"
    """Whose words the student is taught on: the corpus's, or what one of the two models writes."""
    teacher: str = "cached"
    generate: Generate | None = None
    on_policy: OnPolicy | None = None
    ce: CrossEntropy | None = None
    response: Response | None = None
    feature: Feature | None = None
    relational: Relational | None = None

    def __post_init__(self) -> None:
        choice("paradigm.text", self.text, TEXTS)
        choice("paradigm.teacher", self.teacher, ("cached", "online"))
        if self.ce is None and not self.needs_signals:
            raise ValueError(
                f"paradigm={self.name} has no term; "
                "set at least one of ce, response, feature, relational"
            )
        self._check_writing()

    def _check_writing(self) -> None:
        """Fill in how text is written where some is; refuse what nobody reads or cannot be."""
        for part, texts in (("generate", ("teacher", "student")), ("on_policy", ("student",))):
            if getattr(self, part) is not None and self.text not in texts:
                raise ValueError(
                    f"paradigm.{part} is set and paradigm.text={self.text} would not read it; "
                    f"set paradigm.{part}=null or choose text={' or '.join(texts)}"
                )
        if self.text == "corpus":
            return
        self.generate = self.generate or Generate()
        if self.text == "teacher":
            return
        self.on_policy = self.on_policy or OnPolicy()
        if self.generate.num_prompts is not None:
            raise ValueError(
                f"paradigm.generate.num_prompts={self.generate.num_prompts} with text=student: "
                "the prompts are those of the rows trained on; leave it at null"
            )
        if self.teacher == "cached" or not self.needs_signals:
            raise ValueError(
                "paradigm.text=student needs a teacher that scores what the student has just "
                f"written, and this paradigm has teacher={self.teacher} and "
                f"{'a' if self.needs_signals else 'no'} term that asks the teacher; set "
                "teacher=online and a response term"
            )
        if self.ce is not None:
            raise ValueError(
                "paradigm.ce with text=student would teach the student its own words; "
                "set paradigm.ce=null or choose another text"
            )

    @property
    def needs_signals(self) -> bool:
        """Whether a term compares the student with what the teacher says of the same text."""
        return any((self.response, self.feature, self.relational))

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher is asked for anything: signals, or text."""
        return self.needs_signals or self.text == "teacher"
