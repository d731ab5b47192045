"""Whether a tokenizer serves the texts and the models of a run, checked before building."""

from __future__ import annotations

from kdwatts.config.experiment import Config
from kdwatts.models.align import check_rows, check_tokenizer
from kdwatts.models.load import pair_tokenizer
from kdwatts.records.quantized_model import without_bits
from kdwatts.stages.shards import parts_of
from kdwatts.stages.teacher import check_vocabularies, teacher_tokenizer
from kdwatts.stages.work import teacher_source


def check(config: Config, stages: set[str]) -> None:
    """Raise ValueError, in one sentence, where one of these stages would lack a token.

    It checks what the tokenizer lacks, whether the teacher has the same tokens where it must, and
    the vocabulary rows of each model that reads them.
    """
    pair, needs_teacher = config.model, config.paradigm.needs_teacher
    stages = {without_bits(stage) for stage in stages}
    if not stages:
        return
    tokenizer = pair_tokenizer(pair)
    talks = any(not part.source.text_field for part in parts_of(config.data))
    check_tokenizer(tokenizer, path=pair.tokenizer, renders=talks)
    is_online = config.paradigm.needs_signals and config.paradigm.teacher == "online"
    asks_teacher = stages & {"generate", "teacher"} or ("distill" in stages and is_online)
    if asks_teacher and pair.one_vocabulary:
        check_vocabularies(config)
    is_templated = any(map(config.eval.templated, config.eval.tasks))
    # Model to the stages in which it reads the corpus.
    readers = {
        "student": {"distill", "inference_student", "serving_student"},
        "teacher": {"generate", "teacher", "inference_teacher", "serving_teacher"},
    }
    if needs_teacher:
        readers["teacher"].add("distill")
    for subject, source in (("student", pair.student), ("teacher", pair.teacher)):
        if source is None or (subject == "teacher" and not pair.one_vocabulary):
            continue
        reads, is_asked = stages & readers[subject], f"evaluate_{subject}" in stages
        if reads or is_asked:
            check_rows(
                tokenizer,
                path=pair.tokenizer,
                subject=f"model.{subject}",
                rows=source.architecture.vocab_size,
                renders=bool(reads and talks) or (is_asked and is_templated),
            )
    if "distill" in stages and needs_teacher and not pair.one_vocabulary:
        teacher = teacher_source(config)
        check_rows(
            teacher_tokenizer(config),
            path=str(teacher.path),
            subject="model.teacher",
            rows=teacher.architecture.vocab_size,
            renders=False,
        )
