"""Teacher signals for the rows that training will visit, computed once and kept."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from safetensors.torch import save_file

from kdwatts import interrupt
from kdwatts.config import Config
from kdwatts.data.packing import Schedule, load_batch, make_schedule
from kdwatts.data.shards import TokenShards
from kdwatts.models.align import check_same_tokens
from kdwatts.models.load import head_weight, load_model, load_tokenizer, source_fingerprint
from kdwatts.stages.work import Work, frozen_dtype, plan_signals, shared_rows, teacher_source
from kdwatts.teacher.cache import HEAD_NAME, SignalWriter
from kdwatts.teacher.signals import compute_signals
from kdwatts.training.loop import autocast

VERSION = 1
ROWS_PER_FORWARD = 32


def settings(config: Config) -> dict[str, Any]:
    """What the bytes of the signals depend on; seeds and the student are not among it."""
    training = config.training
    return {
        "teacher": source_fingerprint(teacher_source(config)),
        "plan": asdict(plan_signals(config)),
        "sequence_length": training.sequence_length,
        "target_tokens": training.target_tokens,
        "rows_per_step": training.micro_batch * training.accumulation,
        "precision": training.precision,
    }


def training_schedule(config: Config, shards: TokenShards) -> Schedule:
    """The rows and steps of this configuration's training run."""
    training = config.training
    return make_schedule(
        shards,
        sequence_length=training.sequence_length,
        target_tokens=training.target_tokens,
        rows_per_step=training.micro_batch * training.accumulation,
        seed=training.seed,
    )


def check_vocabularies(config: Config) -> None:
    """Raise ValueError unless student and teacher share their token ids.

    A teacher without tokenizer files of its own, such as one that we trained, uses the pair's.
    """
    path = teacher_source(config).path
    assert path
    try:
        teacher = load_tokenizer(path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"model={config.model.name}: the teacher {path} has no readable tokenizer ({error}); "
            "save one beside its weights so that the vocabularies can be compared"
        ) from None
    check_same_tokens(load_tokenizer(config.model.tokenizer), teacher, rows=shared_rows(config))


def build(work: Work) -> None:
    """Run the teacher over the training rows and write its signals to `work.out_dir`."""
    config, device = work.config, work.device
    check_vocabularies(config)
    shards = TokenShards(work.inputs["shards"])
    schedule = training_schedule(config, shards)
    plan = plan_signals(config)
    source = teacher_source(config)
    with work.meter.window("load"):
        teacher = load_model(source, dtype=frozen_dtype(config)).to(device)
    writer = SignalWriter(
        work.out_dir,
        schedule.rows,
        plan,
        sequence_length=config.training.sequence_length,
        width=source.architecture.hidden_size,
    )
    for start in range(0, len(schedule.rows), ROWS_PER_FORWARD):
        rows = schedule.rows[start : start + ROWS_PER_FORWARD]
        batch = load_batch(shards, rows, config.training.sequence_length)
        with autocast(config.training.precision, device):
            signals = compute_signals(teacher, batch.input_BT.to(device), plan)
        writer.write(signals, len(rows))
        work.window.tokens += batch.input_BT.numel()
        interrupt.stop_if_requested("teacher signals are begun anew")
    writer.close()
    if plan.final_hidden:
        head_VD = head_weight(teacher)[: plan.vocabulary].detach().cpu().contiguous()
        save_file({"head": head_VD.clone()}, work.out_dir / HEAD_NAME)
