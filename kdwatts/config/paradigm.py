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
SIGNALS_ENGINES = ("loop", "vllm")


@dataclass
class CrossEntropy:
    """Cross entropy: the student learns the text's own next tokens."""

    weight: float = 1.0
    """Weight of this term in the loss."""

    def __post_init__(self) -> None:
        above_zero("paradigm.ce.weight", self.weight)


@dataclass
class Response:
    """Response distillation: the student learns the teacher's next-token distribution."""

    weight: float = 1.0
    """Weight of this term in the loss."""
    divergence: str = "forward_kl"
    """How the two distributions are compared: KL divergences (forward_kl, reverse_kl), divergences
    from a mixture of both (jsd, skew_kl, skew_reverse_kl), total_variation, or probabilities by
    rank, for two tokenizers (universal)."""
    temperature: float = 1.0
    """Both models' logits are divided by T before they are compared; the loss is multiplied by T
    squared (Hinton et al. 2015, section 2)."""
    support: str = "top_k"
    """Which tokens are compared. top_k: the teacher's k likeliest, and all others as one. sampled:
    tokens drawn from the teacher. dense: all. Divergences other than forward_kl need dense."""
    k: int = 64
    """For support=top_k: how many tokens of each position."""
    num_samples: int = 50
    """For support=sampled: tokens drawn at each position. About a quarter of them are distinct."""
    beta: float = 0.5
    """For divergence=jsd: weight of the teacher in the mixture (GKD, arXiv 2306.13649, equation 1),
    between 0 and 1."""
    skew: float = 0.1
    """For divergence=skew_kl and skew_reverse_kl: weight of the first distribution in the mixture
    (DistiLLM, arXiv 2402.03898, section 3.1), between 0 and 1."""
    teacher_temperatures: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0])
    """For support=top_k: temperatures that one cache serves. A sweep over them makes the cache
    once."""
    cache_precision: str = "u8"
    """For support=top_k: how the cache keeps log-probabilities. u8 changes a loss by less than 0.1
    %. f16 changes it by less than 0.01 % and needs a third more bytes."""

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
    """Feature distillation: the student's hidden states come close to the teacher's."""

    weight: float = 1.0
    """Weight of this term in the loss."""
    layers: str = "uniform"
    """Which blocks are paired. uniform: each block of the student with the teacher's at the same
    relative depth. last: the last two. explicit: `pairs`. cka: the blocks that are most alike,
    measured before training."""
    pairs: list[list[int]] = field(default_factory=list)
    """For layers=explicit: [student block, teacher block], counted from 0."""
    num_pairs: int = 0
    """For layers=cka: how many pairs to choose. 0 takes as many as the shallower model has
    blocks."""
    projector: str = "linear"
    """What brings the student's states to the teacher's width: one matrix (linear), two layers
    (mlp), or nothing (none). Projectors are trained beside the student and are no part of it."""
    share_projector: bool = False
    """One projector for all pairs. false gives each pair its own."""
    distance: str = "normalized_mse"
    """How two states are compared. normalized_mse divides each by its root mean square first. mse
    compares them as they are (FitNets, arXiv 1412.6550, section 2.2). cosine compares
    directions."""
    positions: int = 0
    """How many positions of each row are compared, drawn at random. 0 compares all."""
    skip_first_position: bool = True
    """Leave out the first position of a row. Its state is far larger than the others (an attention
    sink)."""

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
    """Relational distillation: the student copies how the teacher's states lie to each other."""

    weight: float = 1.0
    """Weight of this term in the loss."""
    level: str = "sequence"
    """What lies to each other. sequence: mean states of whole rows. token: states inside a row.
    attention: queries, keys and values (MiniLMv2, arXiv 2012.15828)."""
    distance_weight: float = 1.0
    """Weight of the distances between pairs (Park et al. 2019, arXiv 1904.05068, section 3.2), for
    levels sequence and token. One of the two weights is above 0."""
    angle_weight: float = 2.0
    """Weight of the angles of triplets (Park et al. 2019, section 3.2), for levels sequence and
    token."""
    group_size: int = 8
    """For level=sequence: rows that are compared with each other."""
    tokens: int = 32
    """For level=token: positions of a row that are compared with each other, drawn at random."""
    relation_heads: int = 8
    """For level=attention: parts into which queries, keys and values are split, in both models."""
    teacher_block: int = -1
    """For level=attention: the teacher's block that the student's last block copies, counted from
    0. -1 is the last."""

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
    """What the student is taught by: whose text, and which terms the loss has.

    A term that is null is not part of the loss.
    """

    name: str = MISSING
    """Name of the paradigm in records, tables and folder names."""
    text: str = "corpus"
    """Whose text the student learns: the corpus's, or text that the teacher or the student
    writes."""
    teacher: str = "cached"
    """When the teacher is asked. cached: once, and the store keeps its signals. online: at each
    step, beside the student."""
    generate: Generate | None = None
    """How text is written. null if text=corpus; else null takes the defaults below."""
    on_policy: OnPolicy | None = None
    """How often the student writes. null if the student writes nothing; else null takes the
    defaults below."""
    ce: CrossEntropy | None = None
    """Cross entropy on the text's own next tokens."""
    response: Response | None = None
    """The teacher's distribution over the next token."""
    feature: Feature | None = None
    """The teacher's hidden states."""
    relational: Relational | None = None
    """How the teacher's states lie to each other."""
    signals_engine: str = "loop"
    """What reads the text for a cached teacher: our own forward pass (loop), or vLLM (vllm), which
    gives the k likeliest tokens at temperature 1. eval.serving.vllm says how vLLM is started."""

    def __post_init__(self) -> None:
        choice("paradigm.text", self.text, TEXTS)
        choice("paradigm.teacher", self.teacher, ("cached", "online"))
        if self.signals_engine in ("transformers", "url"):
            raise ValueError(
                f"paradigm.signals_engine={self.signals_engine} cannot be used, as only vLLM gives "
                "the log-probabilities of a prompt; choose vllm or loop"
            )
        choice("paradigm.signals_engine", self.signals_engine, SIGNALS_ENGINES)
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
