"""How batches of training get what the teacher says: from a cache, or from the teacher itself."""

from __future__ import annotations

from torch import Tensor, nn

from kdwatts.config.experiment import Config
from kdwatts.data.packing import Batch
from kdwatts.models.load import load_model, pair_tokenizer
from kdwatts.models.sharding import place
from kdwatts.stages.teacher import check_vocabularies, dense_head, teacher_tokenizer
from kdwatts.stages.work import Work, frozen_dtype, teacher_source
from kdwatts.teacher.cache import SignalCache
from kdwatts.teacher.cross_tokenizer import Spelling, spelling, universal_signals
from kdwatts.teacher.signals import SignalPlan, Signals, compute_signals
from kdwatts.training.loop import SignalReader


def online_teacher(work: Work) -> nn.Module | None:
    """The teacher, frozen, where it runs beside the student; None where it is cached or absent."""
    config = work.config
    if not config.paradigm.needs_signals or "teacher" in work.inputs:
        return None
    if config.model.one_vocabulary:
        check_vocabularies(config)
    teacher = load_model(teacher_source(config), dtype=frozen_dtype(config))
    sharded = config.training.teacher_parallel == "fsdp"
    return place(teacher.requires_grad_(False), work.device, sharded=sharded)


def signal_readers(
    work: Work, teacher: nn.Module | None, plan: SignalPlan
) -> tuple[SignalReader, SignalReader, dict[str, Tensor]]:
    """How a batch gets its teacher signals: from the cache, live, and the head for dense logits."""

    def nothing(batch: Batch) -> Signals | None:
        return None

    if "teacher" in work.inputs:
        cache = SignalCache(work.inputs["teacher"])
        head = cache.head() if plan.final_hidden else {}
        return lambda batch: cache.read(batch.rows), nothing, head
    if teacher is None:
        return nothing, nothing, {}

    head = dense_head(teacher, plan.vocabulary) if plan.final_hidden else {}
    if not work.config.model.one_vocabulary:
        student, reader = _both_spellings(work.config)

        def read(batch: Batch) -> Signals | None:
            return universal_signals(teacher, plan, batch, student=student, reader=reader)

        return nothing, read, head

    def live(batch: Batch) -> Signals | None:
        return compute_signals(
            teacher,
            batch.input_BT,
            plan,
            rows=batch.rows,
            valid_BT=batch.valid_BT,
            position_BT=batch.position_BT,
        )

    return nothing, live, head


def _both_spellings(config: Config) -> tuple[Spelling, Spelling]:
    """How the student and a teacher with another vocabulary spell."""
    student = spelling(pair_tokenizer(config.model), subject="student")
    return student, spelling(teacher_tokenizer(config), subject="teacher")
