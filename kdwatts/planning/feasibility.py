"""Whether a run is possible at all, checked before it is sent to another machine."""

from __future__ import annotations

import copy

from kdwatts.artifacts.store import Store
from kdwatts.config.checks import check
from kdwatts.config.experiment import Config
from kdwatts.config.pair import Pair
from kdwatts.planning.fits import check_memory
from kdwatts.records.quantized_model import without_bits
from kdwatts.runtime.paths import resolve_dir
from kdwatts.runtime.ranks import Launch
from kdwatts.stages.graph import PlannedStage, is_missing, plan
from kdwatts.stages.readable_models import check_models


def plan_ahead(config: Config, launch: Launch) -> list[PlannedStage]:
    """The stages of a run that another launch will make, seen from this machine.

    Raises ValueError for choices that its ranks cannot have, and for a GPU that is too small
    for what is left to build. For a model that cannot be read it raises what the run would. Neither
    GPUs nor hubs are asked.
    """
    check(config, ranks=launch.ranks)
    stages, store = plan(config, [], launch), Store(config.store_dir)
    missing = {planned.name for planned in stages if is_missing(planned, store)}
    models = {without_bits(name) for name in missing}
    makers = {
        "teacher": {"teacher"},
        "writing": {"generate"} if config.paradigm.text == "teacher" else {"distill"},
        "training": {"distill"},
        "evaluation": {"evaluate_teacher", "inference_teacher", "serving_teacher"},
    }
    parts = [part for part, stages in makers.items() if stages & models]
    check_memory(config, launch, parts=parts)
    check_models(_as_on_disk(config), missing)
    if any(name.startswith("serving_") for name in missing):
        check_requests(config)
    return stages


def check_requests(config: Config) -> None:
    """Raise ValueError for lengths and a file of prompts with which a run would serve nothing.

    The file is counted in tokens where the tokenizers are folders: no hub is asked for one.
    """
    # They load torch, which a command that is refused before need not wait for.
    from kdwatts.serving.load.lengths import lengths_of
    from kdwatts.serving.serving_text import ENGINE_PROMPTS, prompts_file, text_of_file
    from kdwatts.stages import serving
    from kdwatts.stages.measured_subject import tokenizer_path

    asked, pair = config.eval.serving, config.model
    if not asked.is_measured:
        return
    subjects = ("student", "teacher") if pair.teacher else ("student",)
    has_tokenizers = all(
        resolve_dir(tokenizer_path(config, subject)).is_dir() for subject in subjects
    )
    if asked.replay.log:
        if has_tokenizers:
            serving.check_requests(config)
        return
    for source in filter(None, (pair.student, pair.teacher)):
        lengths_of(asked.workload, max_positions=source.architecture.max_positions)
    if path := prompts_file(asked.workload):
        text_of_file(path, setting=ENGINE_PROMPTS)
        if has_tokenizers:
            serving.check_requests(config)


def unmade_teacher(pair: Pair) -> str | None:
    """The folder in which the pair's teacher is missing, with the command that makes it, in words.

    None where the teacher is there, or published.
    """
    path = pair.teacher.path if pair.teacher else None
    if pair.made_by is None or path is None or resolve_dir(path).is_dir():
        return None
    return f"its teacher is not made yet, there is no folder {path}; `{pair.made_by}` makes it"


def _as_on_disk(config: Config) -> Config:
    """The same with models as this disk can tell: none in few bits, which takes the GPU, and none
    of a hub that may be asked; one that may not is in the cache or is not to be had."""
    from huggingface_hub import constants

    from kdwatts.models.load import local_dir

    asked = copy.deepcopy(config)
    for source in filter(None, (asked.model.student, asked.model.teacher)):
        source.quantization = None
        if source.path and local_dir(source.path) is None and not constants.HF_HUB_OFFLINE:
            source.path = None
    return asked
