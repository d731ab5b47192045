"""The stages of a run in order, and the key of each. Nothing is built or loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdwatts.artifacts.hardware import first_start, joule_settings
from kdwatts.artifacts.store import Store
from kdwatts.config.experiment import STAGES, Config
from kdwatts.runtime.fingerprint import stage_key
from kdwatts.runtime.ranks import Launch, own_launch
from kdwatts.telemetry.nvml import Device

if TYPE_CHECKING:
    from kdwatts.stages.work import Work

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedStage:
    """One stage of this run: its name, its key, and what it is built from."""

    name: str
    """Name of its window: evaluate_student, where the artifact's stage is `evaluate`."""
    stage: str
    key: str
    settings: dict[str, Any]
    parents: dict[str, str]
    """Name of each stage before it that is in its key, to the key of that."""
    build: Callable[[Work], None]
    is_assisted: bool
    """Whether the other ranks of a launch help to build it."""
    code: dict[str, str | None]
    """Option that names code, to the key of this code. None where it cannot be read."""
    version: int
    reads: dict[str, str]
    """Name to key of the stages that it is built from and that are not in its key."""
    measurements: int | None = None
    """How many independent measurements the store keeps under this key. None: it is built once."""

    @property
    def identity(self) -> dict[str, Any]:
        """What artifact.json says about it.

        `reads` are the keys of artifacts that it is built from and that its own key does not hold.
        `code` are the keys of the code that options name. `settings` hold the name of that code
        alone.
        """
        return {
            "stage": self.stage,
            "key": self.key,
            "parents": list(self.parents.values()),
            "reads": list(self.reads.values()),
            "settings": self.settings,
            "code": self.code,
        }

    def numbered(self) -> list[PlannedStage]:
        """The measurements of this stage, each with a key of its own.

        The stage itself if it has none.

        The first one's key is that of the stage, as in stores from before there were several.
        """
        numbers = range(2, (self.measurements or 1) + 1)
        return [self, *map(self._numbered, numbers)]

    def folders(self, store: Store) -> dict[int, Path]:
        """Number and folder of each of its measurements in the store, whichever run made it."""
        found = {
            number: store.finished_dir(self.stage, one.key)
            for number, one in enumerate(self.numbered(), start=1)
        }
        return {number: folder for number, folder in found.items() if folder}

    def _numbered(self, number: int) -> PlannedStage:
        settings = {**self.settings, "measurement": number}
        key = stage_key(self.stage, self.version, settings, list(self.parents.values()))
        return replace(self, key=key, settings=settings, measurements=None)


def is_missing(planned: PlannedStage, store: Store) -> bool:
    """Whether something of the stage is not in the store: itself, or one of its measurements."""
    return len(planned.folders(store)) < (planned.measurements or 1)


def plan_of_attempt(
    config: Config, gpus: Sequence[Device], launch: Launch, run_dir: Path
) -> list[PlannedStage]:
    """The plan of an attempt in a run's folder.

    A run may go on with another number of nodes or ranks. Its student keeps the key of the first
    start on hardware of this kind where the store has a checkpoint of it, or the student, under
    this key: else it would begin anew. What is measured after it has the keys of this launch.
    """
    began = first_start(run_dir, gpus, launch)
    if began is None:
        return plan(config, gpus, launch)
    stages, store = plan(config, gpus, launch, began=began), Store(config.store_dir)
    if not any(_is_begun(planned, store) for planned in stages):
        return plan(config, gpus, launch)
    log.warning(
        "the run began with %s and goes on with %s; its student keeps the key of the first start, "
        "and manifest.json has the launch of each attempt",
        *(began[1].in_words(), launch.in_words()),
    )
    return stages


def _is_begun(planned: PlannedStage, store: Store) -> bool:
    """Whether the store has the student that a stage stands for, or a checkpoint of it."""
    if planned.stage != "distill":
        return False
    checkpoints = store.scratch_dir(planned.stage, planned.key) / "checkpoints"
    return bool(planned.folders(store)) or any(checkpoints.glob("step-*"))


def plan(
    config: Config,
    gpus: Sequence[Device],
    launch: Launch | None = None,
    *,
    began: tuple[Sequence[Device], Launch] | None = None,
) -> list[PlannedStage]:
    """The stages of a run in order, with their keys. Nothing is built or loaded.

    `gpus` are those of all machines of the launch, which is None for that of this process. `began`
    are GPUs and launch under whose key the student is trained, where they are others.
    """
    from kdwatts.stages import (
        contamination,
        distill,
        evaluate,
        generate,
        inference,
        quantize,
        serving,
        shards,
        teacher,
    )
    from kdwatts.stages.named_code import code_keys
    from kdwatts.stages.quantized_subjects import each_quantized, name_of, quantize_node

    launch = launch or own_launch()
    hardware = joule_settings(config, gpus, launch)
    trained_on = joule_settings(config, *began) if began else hardware
    stages: dict[str, PlannedStage] = {}

    def add(
        name: str,
        stage: Any,
        settings: dict[str, Any],
        parents: list[str],
        *,
        measured: bool,
        subject: str | None = None,
        quantization: str | None = None,
        reads: Sequence[str] = (),
        measurements: int | None = None,
    ) -> None:
        if measured:
            settings = {**settings, "hardware": trained_on if name == "distill" else hardware}
        code = code_keys(stage.NAME, config)
        if code and config.store.code == "strict":
            settings = {**settings, "code": code}
        keys = {parent: stages[parent].key for parent in parents}
        stages[name] = PlannedStage(
            name,
            stage.NAME,
            key=stage_key(stage.NAME, stage.VERSION, settings, list(keys.values())),
            settings=settings,
            parents=keys,
            build=_builder(stage, [one for one in (subject, quantization) if one]),
            is_assisted=hasattr(stage, "assist"),
            code=code,
            version=stage.VERSION,
            reads={read: stages[read].key for read in reads},
            measurements=measurements,
        )

    add("shards", shards, shards.settings(config), [], measured=False)
    if config.data.decontaminate.mode == "report" and config.eval.tasks:
        settings = contamination.settings(config)
        add("contamination", contamination, settings, ["shards"], measured=False)
    if config.paradigm.text == "teacher":
        add("generate", generate, generate.settings(config), ["shards"], measured=False)
    if config.paradigm.needs_signals and config.paradigm.teacher == "cached":
        text = "generate" if "generate" in stages else "shards"
        add("teacher", teacher, teacher.settings(config), [text], measured=False)
    # All that stands before the student is its ancestor, the corpus of a generated text too; a
    # report on the corpus is not.
    ancestors = [name for name in stages if name != "contamination"]
    settings = distill.settings(config, began[1] if began else launch)
    add("distill", distill, settings, ancestors, measured=True)
    subjects = ["student", "teacher"] if config.model.teacher else ["student"]
    quantized = each_quantized(config, subjects) if _is_reached("quantize", config) else []
    for subject, bits in quantized:
        parents = ["distill"] if subject == "student" else []
        settings = quantize.settings(config, subject, bits)
        how: dict[str, Any] = {"measured": True, "subject": subject, "quantization": bits}
        add(quantize_node(subject, bits), quantize, settings, parents, **how)
    models = [*((subject, None) for subject in subjects), *quantized]
    # What a stage beyond `until` would need, a harness or a file, is not asked for.
    for subject, bits in models if config.eval.tasks and _is_reached("evaluate", config) else []:
        parents = ["distill"] if subject == "student" else []
        if bits:
            parents = [quantize_node(subject, bits)]
        settings = evaluate.settings(config, subject, bits)
        how = {"measured": True, "subject": subject, "quantization": bits}
        add(f"evaluate_{name_of(subject, bits)}", evaluate, settings, parents, **how)
    grid = config.eval.inference
    for subject in subjects if grid and _is_reached("inference", config) else []:
        assert grid
        keyed, read = inference.stands_on(config, subject)
        add(
            f"inference_{subject}",
            inference,
            inference.settings(config, subject),
            keyed,
            measured=True,
            subject=subject,
            reads=read,
            measurements=grid.measurements,
        )
    under_load = config.eval.serving
    is_served = under_load.is_measured and _is_reached("serving", config)
    for subject, bits in models if is_served else []:
        keyed, read = serving.stands_on(config, subject, bits)
        add(
            f"serving_{name_of(subject, bits)}",
            serving,
            serving.settings(config, subject, bits, num_gpus=len(gpus)),
            keyed,
            measured=True,
            subject=subject,
            quantization=bits,
            reads=read,
            measurements=under_load.measurements,
        )
    return [planned for planned in stages.values() if _is_reached(planned.stage, config)]


def _builder(stage: Any, of: Sequence[str]) -> Callable[[Work], None]:
    """What builds a stage: of a subject, in few bits or not, where it is there several times."""
    return lambda work: stage.build(work, *of)


def _is_reached(stage: str, config: Config) -> bool:
    """Whether the stage is not beyond `until`; a plan has all."""
    return config.until == "plan" or STAGES.index(stage) <= STAGES.index(config.until)
