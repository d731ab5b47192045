"""How training batches get teacher signals: from a cache, or from the teacher itself."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from kdwatts.config.experiment import Config
from kdwatts.data.packing import Batch
from kdwatts.models.load import load_model, pair_tokenizer, without_weights
from kdwatts.models.read_once import read_once
from kdwatts.models.row_attention import attend_by_rows
from kdwatts.models.sharing import Sharing
from kdwatts.stages.teacher import check_vocabularies, dense_head, teacher_tokenizer
from kdwatts.stages.work import Work, frozen_dtype, teacher_source
from kdwatts.teacher.cache import SignalCache
from kdwatts.teacher.cross_tokenizer import Spelling, spelling, universal_signals
from kdwatts.teacher.signals import SignalPlan, Signals, compute_signals
from kdwatts.training.meeting import ranks_by_node
from kdwatts.training.micro_batch import SignalSource
from kdwatts.training.terms.head_terms import TeacherHead


def online_teacher(work: Work) -> nn.Module | None:
    """The frozen teacher, where it runs beside the student. None where it is cached or absent."""
    config, training = work.config, work.config.training
    if not config.paradigm.needs_signals or "teacher" in work.inputs:
        return None
    if config.model.one_vocabulary:
        check_vocabularies(config)
    source, dtype = teacher_source(config), frozen_dtype(config)
    if source.quantization:
        teacher = load_model(source, dtype=dtype)  # Onto this rank's GPU, while it is read.
    else:
        teacher = read_once(
            lambda: load_model(source, dtype=dtype).requires_grad_(False),
            lambda: without_weights(source, dtype=dtype).requires_grad_(False),
            work.device,
            Sharing(training.teacher_parallel, training.precision, ranks_by_node()),
        )
    if config.model.one_vocabulary or not training.respect_documents:
        # Rows in another vocabulary have any length, and each has its own kernel for documents.
        attend_by_rows(teacher)
    return teacher.requires_grad_(False)


def signal_source(
    work: Work, teacher: nn.Module | None, plan: SignalPlan
) -> tuple[SignalSource, TeacherHead | None]:
    """Where a batch gets its teacher signals from, and the output head for dense logits."""
    if "teacher" in work.inputs:
        cache = SignalCache(work.inputs["teacher"])
        head = cache.head() if plan.final_hidden else {}
        return SignalSource(cached=lambda batch: cache.read(batch.rows)), _teacher_head(head)
    if teacher is None:
        return SignalSource(), None
    head = dense_head(teacher, plan.vocabulary) if plan.final_hidden else {}
    return SignalSource(live=_live(work.config, teacher, plan)), _teacher_head(head)


def _live(config: Config, teacher: nn.Module, plan: SignalPlan) -> Callable[[Batch], Signals]:
    """What asks a teacher that runs beside the student."""
    if not config.model.one_vocabulary:
        student, reader = _both_spellings(config)
        return lambda batch: universal_signals(teacher, plan, batch, student=student, reader=reader)
    return lambda batch: compute_signals(
        teacher,
        batch.input_BT,
        plan,
        rows=batch.rows,
        valid_BT=batch.valid_BT,
        position_BT=batch.position_BT,
    )


def _teacher_head(parts: dict[str, Tensor]) -> TeacherHead | None:
    return TeacherHead(parts["head"], parts.get("bias")) if parts else None


def _both_spellings(config: Config) -> tuple[Spelling, Spelling]:
    """How the student and a teacher with another vocabulary spell."""
    student = spelling(pair_tokenizer(config.model), subject="student")
    return student, spelling(teacher_tokenizer(config), subject="teacher")
