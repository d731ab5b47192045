"""The stages, in order: what is in the store is reused, the rest is built under the meter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdwatts import interrupt
from kdwatts.artifact import ARTIFACT_NAME, Artifact, make_record, other_code, read_artifact
from kdwatts.config import STAGES, Config
from kdwatts.fingerprint import stage_key
from kdwatts.hardware import joule_settings
from kdwatts.launch import launched
from kdwatts.records import read_json, write_json
from kdwatts.store import Claim, Store
from kdwatts.telemetry.meter import Meter, OpenWindow
from kdwatts.telemetry.nvml import Gpu as Card

if TYPE_CHECKING:
    from kdwatts.stages.work import Work
    from kdwatts.training.parallel import Company

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Node:
    """One stage of this run: what it is called, what keys it, what it stands on."""

    name: str
    """Name of its window: evaluate_student, where the artifact's stage is `evaluate`."""
    stage: str
    key: str
    settings: dict[str, Any]
    parents: dict[str, str]
    """Name of each parent node to its key."""
    build: Callable[[Work], None]
    is_assisted: bool
    """Whether the other ranks of a launch take part in building it."""
    code: dict[str, str | None]
    """Option that names code to the key of that code; None where it cannot be read."""


def plan(config: Config, cards: Sequence[Card]) -> list[Node]:
    """The nodes of a run in order, with their keys; nothing is built or loaded for it."""
    from kdwatts.stages import (
        contamination,
        distill,
        evaluate,
        generate,
        inference,
        shards,
        teacher,
    )
    from kdwatts.stages.named_code import code_keys

    hardware = joule_settings(config, cards)
    nodes: dict[str, Node] = {}

    def add(
        name: str,
        stage: Any,
        settings: dict[str, Any],
        parents: list[str],
        *,
        measured: bool,
        subject: str | None = None,
    ) -> None:
        if measured:
            settings = {**settings, "hardware": hardware}
        stage_name = stage.__name__.rpartition(".")[2]
        code = code_keys(stage_name, config)
        if code and config.store.code == "strict":
            settings = {**settings, "code": code}
        keys = {parent: nodes[parent].key for parent in parents}
        key = stage_key(stage_name, stage.VERSION, settings, list(keys.values()))
        build = stage.build if subject is None else lambda work: stage.build(work, subject)
        is_assisted = hasattr(stage, "assist")
        nodes[name] = Node(name, stage_name, key, settings, keys, build, is_assisted, code)

    add("shards", shards, shards.settings(config), [], measured=False)
    if config.data.decontaminate.mode == "report" and config.eval.tasks:
        asked = contamination.settings(config)
        add("contamination", contamination, asked, ["shards"], measured=False)
    if config.paradigm.text == "teacher":
        add("generate", generate, generate.settings(config), ["shards"], measured=False)
    if config.paradigm.needs_signals and config.paradigm.teacher == "cached":
        text = "generate" if "generate" in nodes else "shards"
        add("teacher", teacher, teacher.settings(config), [text], measured=False)
    # All that stands before the student is its ancestor, the corpus of a generated text too; a
    # report on the corpus is not.
    ancestors = [name for name in nodes if name != "contamination"]
    add("distill", distill, distill.settings(config), ancestors, measured=True)
    subjects = ["student", "teacher"] if config.model.teacher else ["student"]
    # What a stage beyond `until` would need, a harness or a file, is not asked for.
    for subject in subjects if config.eval.tasks and _is_asked("evaluate", config) else []:
        parents = ["distill"] if subject == "student" else []
        settings = evaluate.settings(config, subject)
        add(f"evaluate_{subject}", evaluate, settings, parents, measured=True, subject=subject)
    for subject in subjects if config.eval.inference and _is_asked("inference", config) else []:
        parents = ["shards", "distill"] if subject == "student" else ["shards"]
        settings = inference.settings(config, subject)
        add(f"inference_{subject}", inference, settings, parents, measured=True, subject=subject)
    return [node for node in nodes.values() if _is_asked(node.stage, config)]


def _is_asked(stage: str, config: Config) -> bool:
    return config.until == "plan" or STAGES.index(stage) <= STAGES.index(config.until)


@dataclass(frozen=True)
class Run:
    """One invocation: where it writes, what it stands on."""

    config: Config
    run_dir: Path
    store: Store
    attempt: int
    cards: Sequence[Card]
    notice: Callable[[str], None]
    """Told the name of each stage as it begins."""
    company: Company | None = None
    """The ranks of this launch, of which this is the first; None for a process that is alone."""


@dataclass(frozen=True)
class Call:
    """What the first rank asks the others to help with, told so that each can do it alone."""

    stage: str
    config: Config
    inputs: dict[str, Path]
    artifact_dir: Path
    scratch_dir: Path
    run_dir: Path
    attempt: int


@dataclass(frozen=True)
class Prepare:
    """What the first rank is about to build: the others do meanwhile what it does before."""

    config: Config
    stages: list[str]


@dataclass(frozen=True)
class Ended:
    """How the first rank's run ended: done, failed or preempted."""

    state: str


def execute(run: Run, nodes: list[Node]) -> dict[str, Artifact]:
    """Obtain every node's artifact under the meter and summarize the run when all are there."""
    from transformers.utils.logging import disable_progress_bar

    from kdwatts.stages import contamination, evaluate, inference, vocabulary
    from kdwatts.stages.summarize import summarize

    disable_progress_bar()  # One bar is ours: the training loop's.
    config = run.config
    missing = [node for node in nodes if not run.store.find(node.stage, node.key)]
    check_models(config, {node.name for node in missing})
    vocabulary.check(config, {node.name for node in missing})
    if any(node.stage == "evaluate" for node in missing):
        evaluate.check(config)
    serves = any(node.stage == "inference" for node in missing)
    if serves:
        inference.check(config)
    _get_ready(run, sorted({node.stage for node in missing}))
    artifacts: dict[str, Artifact] = {}
    with Meter(
        run.run_dir,
        config.telemetry,
        attempt=run.attempt,
        use_gpus=config.gpu.device != "cpu",
        peers=run.company.peers if run.company else (),
    ) as meter:
        for node in nodes:
            interrupt.stop_if_requested(f"everything before {node.name} is in the store")
            run.notice(node.name)
            artifacts[node.name] = _obtain(run, node, artifacts, meter)
            contamination.tell(run.run_dir, artifacts[node.name].directory)
            if serves and node.stage == "shards":
                inference.check_corpus(config, artifacts[node.name].directory)
    assert meter.row
    if "distill" in artifacts:
        summarize(config, run.run_dir, artifacts, meter.row, run.cards)
    return artifacts


def _get_ready(run: Run, stages: list[str]) -> None:
    """Have every rank import what the stages use, before a window pays for it."""
    from kdwatts.stages.ready import get_ready

    if run.company:
        run.company.tell(Prepare(run.config, stages))
    get_ready(run.config, stages)
    if run.company:
        run.company.wait_for_answers()


def check_models(config: Config, stages: set[str]) -> None:
    """Raise, in one sentence, unless the models that these stages load can be read.

    A teacher that cannot be would else be found out after its corpus, or its student, was paid for.
    """
    from kdwatts.models.load import check_readable

    pair, paradigm = config.model, config.paradigm
    if "distill" in stages:
        check_readable(pair.student, licence=pair.licence)
    is_online = paradigm.needs_signals and paradigm.teacher == "online"
    reads_teacher = stages & {"generate", "teacher", "evaluate_teacher", "inference_teacher"}
    if "distill" in stages and (is_online or pair.student.init_from_teacher):
        reads_teacher.add("distill")
    if pair.teacher and reads_teacher:
        check_readable(pair.teacher, licence=pair.licence)


def follow(company: Company) -> str:
    """Help the first rank with what ranks build together, until its run is over; how that ended."""
    from transformers.utils.logging import disable_progress_bar

    from kdwatts.stages import distill, teacher
    from kdwatts.stages.inference import synchronizer
    from kdwatts.stages.ready import get_ready
    from kdwatts.stages.work import Work
    from kdwatts.telemetry.bystander import Bystander
    from kdwatts.training.parallel import device_of, together

    disable_progress_bar()
    stages = {"teacher": teacher, "distill": distill}
    while not isinstance(message := company.hear(), Ended):
        if isinstance(message, Prepare):
            get_ready(message.config, message.stages)
            company.answer()
            continue
        assert isinstance(message, Call)
        device = device_of(company.ranks, message.config.gpu.device)
        meter = Bystander(together(synchronizer(device)))
        work = Work(
            config=message.config,
            inputs=message.inputs,
            out_dir=message.artifact_dir,
            scratch_dir=message.scratch_dir,
            run_dir=message.run_dir,
            attempt=message.attempt,
            meter=meter,
            window=OpenWindow(meter, message.stage, None, None),
            device=device,
        )
        stages[message.stage].assist(work, message.artifact_dir)
    return message.state


def stopped_by(artifacts: Mapping[str, Artifact]) -> str | None:
    """What ended the student's training, target_tokens or budget_kj; None without a student."""
    from kdwatts.stages.distill import SUMMARY_NAME

    if "distill" not in artifacts:
        return None
    return read_json(artifacts["distill"].directory / SUMMARY_NAME)["stopped_by"]


def _attempts_before(run: Run, node: Node, scratch_dir: Path) -> list[dict[str, Any]]:
    """Energy of unfinished attempts at this artifact, also of those whose work was lost."""
    from kdwatts.stages.attempts import earlier_attempts

    interval_s = run.config.telemetry.interval_s
    return earlier_attempts(scratch_dir, window=f"run/{node.name}", interval_s=interval_s)


def _call(run: Run, node: Node, inputs: dict[str, Path], claim: Claim) -> None:
    """Have the other ranks help with a build."""
    assert run.company
    run.company.tell(
        Call(
            stage=node.stage,
            config=run.config,
            inputs=inputs,
            artifact_dir=claim.artifact_dir,
            scratch_dir=claim.scratch_dir,
            run_dir=run.run_dir,
            attempt=run.attempt,
        )
    )


def _obtain(run: Run, node: Node, artifacts: dict[str, Artifact], meter: Meter) -> Artifact:
    """The node's artifact from the store, or built, recorded and committed.

    A run that finds it there, or waits for who builds it, asks nothing of a GPU for it.
    """
    import torch

    from kdwatts.stages.distill import write_energy
    from kdwatts.stages.inference import synchronizer
    from kdwatts.stages.work import Work
    from kdwatts.training.parallel import device_of, together

    with run.store.claim(node.stage, node.key) as claim:
        device = torch.device(run.config.gpu.device)
        if not claim.exists and node.stage not in ("shards", "contamination"):
            device = device_of(launched(), device.type)
        synchronize = synchronizer(device)
        with meter.window(node.name, key=node.key, synchronize=synchronize) as window:
            if claim.exists:
                window.outcome = "reused"
            else:
                inputs = {name: artifacts[name].directory for name in node.parents}
                before = _attempts_before(run, node, claim.scratch_dir)
                if run.company and node.is_assisted:
                    _call(run, node, inputs, claim)
                    if node.stage == "distill":  # From here to its end ranks go in step.
                        window.synchronize = together(synchronize)
                node.build(
                    Work(
                        config=run.config,
                        inputs=inputs,
                        out_dir=claim.work_dir,
                        scratch_dir=claim.scratch_dir,
                        run_dir=run.run_dir,
                        attempt=run.attempt,
                        meter=meter,
                        window=window,
                        device=device,
                    )
                )
        if claim.exists:
            artifact = read_artifact(claim.artifact_dir)
            if changes := other_code(artifact.record, node.code):
                log.warning(
                    "%s: %s was built by other code: %s; run with store.code=strict, or delete %s, "
                    "to build it anew",
                    *(node.name, node.key, " and ".join(changes), artifact.directory),
                )
            log.info("%s: reused %s (%s)", node.name, node.key, artifact.cost_in_words())
            return Artifact(artifact.directory, artifact.record, reused=True)
        assert window.row
        record = make_record(
            stage=node.stage,
            key=node.key,
            settings=node.settings,
            parents=list(node.parents.values()),
            attempts=[*before, asdict(window.row)],
            run=run.run_dir.name,
            cards=[card.name for card in run.cards],
            code=node.code,
        )
        write_json(claim.work_dir / ARTIFACT_NAME, record)
        if node.stage == "distill":
            parents = [artifacts[name].record for name in node.parents]
            write_energy(run.config, claim.work_dir, record, parents)
        claim.commit()
    artifact = Artifact(claim.artifact_dir, record, reused=False)
    log.info("%s: built %s (%s)", node.name, node.key, artifact.cost_in_words())
    return artifact
