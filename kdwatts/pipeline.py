"""The stages, in order: what is in the store is reused, the rest is built under the meter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdwatts.artifacts.artifact import (
    ARTIFACT_NAME,
    Artifact,
    make_record,
    other_code,
    read_artifact,
)
from kdwatts.artifacts.store import Claim, Store
from kdwatts.config.experiment import Config
from kdwatts.records.files import read_json, write_json
from kdwatts.runtime import interrupt
from kdwatts.runtime.ranks import launched
from kdwatts.stages.graph import Node, is_missing
from kdwatts.telemetry.meter import Meter, OpenWindow
from kdwatts.telemetry.nvml import Device

if TYPE_CHECKING:
    from kdwatts.training.parallel import Company

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One invocation: where it writes, what it stands on."""

    config: Config
    run_dir: Path
    store: Store
    attempt: int
    gpus: Sequence[Device]
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
    from kdwatts.stages.serving_measurements import read_served
    from kdwatts.stages.summarize import summarize

    disable_progress_bar()  # One bar is ours: the training loop's.
    config = run.config
    missing = [node for node in nodes if is_missing(node, run.store)]
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
            artifact = _obtain(run, node, artifacts, meter)
            if artifact is None:
                continue
            artifacts[node.name] = artifact
            contamination.tell(run.run_dir, artifact.directory)
            if serves and node.stage == "shards":
                inference.check_corpus(config, artifact.directory)
    assert meter.row
    if "distill" in artifacts:
        served = {
            node.name.removeprefix("inference_"): read_served(_found(run.store, node), node.key)
            for node in nodes
            if node.stage == "inference"
        }
        summarize(config, run.run_dir, artifacts, served, meter.row, run.gpus)
    return artifacts


def _found(store: Store, node: Node) -> dict[int, Path]:
    """Number and folder of each measurement of a node that is in the store, whoever made it."""
    folders = {
        number: store.find(node.stage, one.key)
        for number, one in enumerate(node.numbered(), start=1)
    }
    return {number: folder for number, folder in folders.items() if folder}


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


def _obtain(run: Run, node: Node, artifacts: dict[str, Artifact], meter: Meter) -> Artifact | None:
    """The node's artifact from the store, or built, recorded and committed.

    A run that finds it there, or waits for who builds it, asks nothing of a GPU for it. Of a node
    that is measured several times it is the measurement that this run makes, the first that is
    missing and that nobody is making; else the first one found, and None where none is there yet.
    """
    if node.measurements is None:
        with run.store.claim(node.stage, node.key) as claim:
            return _taken(run, node, claim, artifacts, meter)
    found: Node | None = None
    for one in node.numbered():
        with run.store.claim_if_free(one.stage, one.key) as free:
            if free and not free.exists:
                return _taken(run, one, free, artifacts, meter)
            found = found or (one if free else None)
    if found:
        with run.store.claim(found.stage, found.key) as claim:
            return _taken(run, found, claim, artifacts, meter)
    log.info(
        "%s: left to the runs that are measuring it, all %d of what serves alike under %s",
        *(node.name, node.measurements, node.key),
    )
    return None


def _taken(
    run: Run, node: Node, claim: Claim, artifacts: dict[str, Artifact], meter: Meter
) -> Artifact:
    """What a claim is to: the artifact that exists, or the one that is built now."""
    import torch

    from kdwatts.stages.distill import write_energy
    from kdwatts.stages.inference import synchronizer
    from kdwatts.stages.work import Work
    from kdwatts.training.parallel import device_of, together

    device = torch.device(run.config.gpu.device)
    if not claim.exists and node.stage not in ("shards", "contamination"):
        device = device_of(launched(), device.type)
    synchronize = synchronizer(device)
    with meter.window(node.name, key=node.key, synchronize=synchronize) as window:
        if claim.exists:
            window.outcome = "reused"
        else:
            inputs = {name: artifacts[name].directory for name in (*node.parents, *node.reads)}
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
        reads=list(node.reads.values()),
        attempts=[*before, asdict(window.row)],
        run=run.run_dir.name,
        gpus=[gpu.name for gpu in run.gpus],
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
