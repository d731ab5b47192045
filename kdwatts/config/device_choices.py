"""Options of training that the device decides where the user does not."""

from __future__ import annotations

from kdwatts.config.experiment import Config
from kdwatts.config.pair import Architecture, block_weights_of

CHUNK_ROWS = {"cpu": 256, "cuda": 2048}
"""On a GPU each chunk adds to the gradient of the whole head. Moving that gradient takes about as
long as the products of 256 rows."""

COMPILE_S = 60.0
"""Seconds that compiling one form of a model is taken to last. Small models take 40 s on a CPU;
this is rounded up. How long a run really took stands in its window `compile`."""
SAVED_SHARE = 1 - 5762 / 6667
"""Share of the time that compiled code saves: Llama 3.1 8B on 8 H100 reads 6,667 tokens/s a GPU in
place of 5,762 (torchtitan, docs/performance.md, "1D Parallelism", without Float8)."""
REACHED = 0.5
"""Share of its peak rate at which a GPU is taken to train: the upper one that a plan expects, so
that no saving is overstated."""


def settle(config: Config) -> None:
    """Replace `training.chunk_rows=null` and `training.compile=auto` by the device's values.

    This comes before any key is made, so that a key names what was computed. The reason for
    compiling or not is kept in `training.compile_why`, which is no option and in no key.
    """
    training, device = config.training, "cpu" if config.gpu.device == "cpu" else "cuda"
    if training.chunk_rows is None:
        training.chunk_rows = CHUNK_ROWS[device]
    if training.compile == "auto":
        training.compile, training.compile_why = compile_choice(config)


def settle_again(config: Config) -> None:
    """Decide anew what `auto` decided, once other settings have changed."""
    training = config.training
    if "compile_why" in vars(training):
        training.compile, training.compile_why = compile_choice(config)


def compile_choice(config: Config) -> tuple[bool, str]:
    """Whether compiling pays for itself in time, and why.

    It does where SAVED_SHARE of training is longer than compiling. The time of training is that of
    one GPU and of all steps: a key must not depend on the number of ranks, nor on the step at which
    a run goes on. A model that writes text is not compiled for it, so writing does not count.
    A budget ends training no later than a GPU at its power limit has drawn it.
    """
    training, gpu = config.training, config.gpu
    if gpu.device == "cpu":
        return False, "models are not compiled on a CPU"
    refused = not_compiled_with(config)
    if refused:
        return False, f"models are not compiled with {refused}"
    peak = gpu.bf16_dense_tflops if training.precision == "bf16" else gpu.fp32_dense_tflops
    if not peak:
        return False, f"the peak rate of gpu={gpu.name} is not known, nor is the time that is saved"
    train_s = training.target_tokens * _flops_per_token(config) / (REACHED * peak * 1e12)
    if training.budget_kj and gpu.tdp_w:
        train_s = min(train_s, 1000 * training.budget_kj / gpu.tdp_w)
    num_forms = 1 + bool(training.heldout_every) + compiles_teacher(config)
    saved_s, compile_s = SAVED_SHARE * train_s, COMPILE_S * num_forms
    pays = saved_s > compile_s
    return pays, (
        f"compiled code saves about {saved_s:,.0f} s of {train_s:,.0f} s, which is "
        f"{'more' if pays else 'no more'} than the {compile_s:,.0f} s that compiling takes"
    )


def not_compiled_with(config: Config) -> str | None:
    """The settings with which models cannot be compiled. None where they can."""
    training, relational = config.training, config.paradigm.relational
    if training.shards_student:
        return f"training.parallel={training.parallel}"
    # Traced, a block that is recomputed does not give out what lies inside it.
    if training.gradient_checkpointing and relational and relational.level == "attention":
        return "training.gradient_checkpointing=true and paradigm.relational.level=attention"
    return None


def compiles_teacher(config: Config) -> bool:
    """Whether a teacher that our own loop asks is compiled where the student is.

    It is not in shards or in few bits. A teacher of another vocabulary reads rows of any length,
    and each would be compiled.
    """
    teacher, paradigm = config.model.teacher, config.paradigm
    return bool(
        teacher
        and paradigm.needs_signals
        and paradigm.signals_engine == "loop"
        and config.model.one_vocabulary
        and not teacher.quantization
        and not config.training.shards_teacher
    )


def _flops_per_token(config: Config) -> float:
    """Operations per token of training: three passes of the student, and one of a teacher.

    Each is two per weight of blocks and head (Kaplan et al. 2020, arXiv 2001.08361, section 2.1).
    Attention between tokens is left out, so that no saving is overstated.
    """
    flops = 3 * 2 * _products(config.model.student.architecture)
    teacher = config.model.teacher
    if teacher and compiles_teacher(config):
        flops += 2 * _products(teacher.architecture)
    return flops


def _products(shape: Architecture) -> int:
    """Weights that a token is multiplied with: linear layers and head."""
    return shape.num_layers * block_weights_of(shape) + shape.vocab_size * shape.hidden_size
