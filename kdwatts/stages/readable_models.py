"""Whether the models that stages load can be read, checked before anything is built."""

from __future__ import annotations

from kdwatts.config.experiment import Config


def check_models(config: Config, stages: set[str]) -> None:
    """Raise one sentence unless the models that these stages load can be read.

    Otherwise an unreadable teacher would stop the run after its corpus, or its student, was built.
    """
    from kdwatts.models.load import check_readable
    from kdwatts.records.quantized_model import without_bits

    pair, paradigm = config.model, config.paradigm
    stages = {without_bits(stage) for stage in stages}
    if "distill" in stages:
        check_readable(pair.student, licence=pair.licence)
    is_online = paradigm.needs_signals and paradigm.teacher == "online"
    readers = {"generate", "teacher", "evaluate_teacher", "inference_teacher", "serving_teacher"}
    reads_teacher = stages & (readers | {"quantize_teacher"})
    if "distill" in stages and (is_online or pair.student.init_from_teacher):
        reads_teacher.add("distill")
    if pair.teacher and reads_teacher:
        check_readable(pair.teacher, licence=pair.licence)
