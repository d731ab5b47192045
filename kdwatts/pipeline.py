"""The whole path of a run: prepare, obtain each stage's artifact under the meter, summarize.

An artifact that is in the store is reused; one that another run is building is waited for; the
rest is built here. What a stage does is in kdwatts/stages, one file each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdwatts.artifacts.artifact import (
    ARTIFACT_NAME,
    Artifact,
    in_words,
    make_record,
    other_code,
    read_artifact,
)
from kdwatts.artifacts.manifest import add_to_manifest, node_record
from kdwatts.artifacts.store import Claim, Store
from kdwatts.config.experiment import Config
from kdwatts.records.files import read_json, write_json
from kdwatts.runtime import interrupt
from kdwatts.runtime.ranks import launched
from kdwatts.stages.graph import PlannedStage, is_missing
from kdwatts.stages.readable_models import check_models
from kdwatts.telemetry.meter import Meter
from kdwatts.telemetry.nvml import Device

if TYPE_CHECKING:
    from kdwatts.telemetry.other_nodes import OtherNode
    from kdwatts.training.company import Company

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
    """Is given the name of each stage as it begins."""
    company: Company | None = None
    """The ranks of this launch, of which this is the first; None for a process that is alone."""


def execute(run: Run, stages: list[PlannedStage]) -> dict[str, Artifact]:
    """Obtain every stage's artifact under the meter and summarize the run when all are there."""
    from kdwatts.stages import contamination, inference, serving
    from kdwatts.stages.engine_measurements import read_engine_served
    from kdwatts.stages.serving_measurements import read_served
    from kdwatts.stages.summarize import summarize

    config = run.config
    missing = [planned for planned in stages if is_missing(planned, run.store)]
    _prepare(run, missing)
    others = _meters_of_others(run)
    artifacts: dict[str, Artifact] = {}
    with Meter(
        run.run_dir,
        config.telemetry,
        attempt=run.attempt,
        use_gpus=config.gpu.device != "cpu",
        peers=run.company.peers if run.company else (),
        others=others,
    ) as meter:
        for planned in stages:
            interrupt.stop_if_requested(f"everything before {planned.name} is in the store")
            run.notice(planned.name)
            artifact = _obtain(run, planned, artifacts, meter)
            if artifact is None:
                continue
            artifacts[planned.name] = artifact
            contamination.copy_report(artifact.directory, run.run_dir)
            for stage in (inference, serving):
                if planned.stage == "shards" and any(one.stage == stage.NAME for one in missing):
                    stage.check_corpus(config, artifact.directory)
    assert meter.row
    if "distill" in artifacts:
        served = {
            planned.name.removeprefix("inference_"): read_served(
                planned.folders(run.store), planned.key
            )
            for planned in stages
            if planned.stage == "inference"
        }
        by_engine = {
            planned.name.removeprefix("serving_"): read_engine_served(
                planned.folders(run.store), planned.key
            )
            for planned in stages
            if planned.stage == "serving"
        }
        summarize(config, run.run_dir, artifacts, served, by_engine, meter.row, run.gpus)
    return artifacts


def _prepare(run: Run, missing: list[PlannedStage]) -> None:
    """Refuse what could not be built; have every rank import what building uses.

    Both come before a window would pay for them.
    """
    from transformers.utils.logging import disable_progress_bar

    from kdwatts.models.sharing import check_blocks
    from kdwatts.stages import evaluate, inference, quantize, serving, vocabulary
    from kdwatts.stages.rank_messages import Prepare, to_values
    from kdwatts.stages.ready import get_ready
    from kdwatts.training.meeting import ranks_by_node

    disable_progress_bar()  # One bar is ours: the training loop's.
    names = {planned.name for planned in missing}
    stages = sorted({planned.stage for planned in missing})
    check_models(run.config, names)
    vocabulary.check(run.config, names)
    for stage in (evaluate, inference, quantize, serving):
        if stage.NAME in stages:
            stage.check(run.config)
    if run.company:
        training = run.config.training
        if "distill" in stages and "hsdp" in (training.parallel, training.teacher_parallel):
            check_blocks(ranks_by_node())
        run.company.tell(to_values(Prepare(run.config, stages)))
    get_ready(run.config, stages)
    if run.company:
        run.company.wait_for_answers()


def _meters_of_others(run: Run) -> list[OtherNode]:
    """The meters of the other nodes, which begin now; the manifest says how far their clocks are.

    Empty where the run is on one node.
    """
    from kdwatts.stages.node_meters import clock_offsets, meters_of_others
    from kdwatts.stages.rank_messages import Measure, to_values

    if not run.company or len(run.company.nodes) == 1:
        return []
    run.company.tell(to_values(Measure(run.config, run.run_dir, run.attempt)))
    others = meters_of_others(run.company, run.company.wait_for_answers())
    clocks = clock_offsets(others)
    nodes = [node_record(node, clocks.get(node.number)) for node in run.company.nodes]
    add_to_manifest(run.run_dir, nodes=nodes)
    return others


def _obtain(
    run: Run, planned: PlannedStage, artifacts: dict[str, Artifact], meter: Meter
) -> Artifact | None:
    """The stage's artifact from the store, or built, recorded and committed.

    A run that finds it there, or waits for who builds it, asks nothing of a GPU for it. Of a stage
    that is measured several times it is the measurement that this run makes, the first that is
    missing and that nobody is making; else the first that is there, and None where none is yet.
    """

    def take(one: PlannedStage, claim: Claim) -> Artifact:
        if claim.exists:
            return _reuse(run, one, claim, meter)
        return _build(run, one, claim, artifacts, meter)

    if planned.measurements is None:
        with run.store.claim(planned.stage, planned.key) as claim:
            return take(planned, claim)
    there: PlannedStage | None = None
    for one in planned.numbered():
        with run.store.claim_if_free(one.stage, one.key) as free:
            if free and not free.exists:
                return take(one, free)
            there = there or (one if free else None)
    if there:
        with run.store.claim(there.stage, there.key) as claim:
            return take(there, claim)
    log.info(
        "%s: not measured here, other runs are making all %d measurements of key %s",
        *(planned.name, planned.measurements, planned.key),
    )
    return None


def _reuse(run: Run, planned: PlannedStage, claim: Claim, meter: Meter) -> Artifact:
    """The artifact that is in the store."""
    import torch

    from kdwatts.stages.inference import synchronizer

    synchronize = synchronizer(torch.device(run.config.gpu.device))
    with meter.window(planned.name, key=planned.key, synchronize=synchronize, alone=True) as window:
        window.outcome = "reused"
    artifact = read_artifact(claim.artifact_dir)
    if changes := other_code(artifact.record, planned.code):
        log.warning(
            "%s: the artifact %s was built by other code: %s; it is reused all the same, set "
            "store.code=strict or delete %s to build it anew",
            *(planned.name, planned.key, " and ".join(changes), artifact.directory),
        )
    log.info("%s: reused, %s, key %s", planned.name, artifact.cost_in_words(), planned.key)
    return Artifact(artifact.directory, artifact.record, reused=True)


def _build(
    run: Run, planned: PlannedStage, claim: Claim, artifacts: dict[str, Artifact], meter: Meter
) -> Artifact:
    """The artifact, built under the meter, with the energy of every attempt at it."""
    import torch

    from kdwatts.stages.attempts import earlier_attempts
    from kdwatts.stages.distill import write_energy
    from kdwatts.stages.inference import synchronizer
    from kdwatts.stages.rank_messages import Built, Call, to_values
    from kdwatts.stages.work import Work
    from kdwatts.training.parallel import device_of, together

    device = torch.device(run.config.gpu.device)
    if planned.stage not in ("shards", "contamination"):
        device = device_of(launched(), device.type)
    synchronize = synchronizer(device)
    alone = not planned.is_assisted
    with meter.window(
        planned.name, key=planned.key, synchronize=synchronize, alone=alone
    ) as window:
        work = Work(
            config=run.config,
            inputs={name: artifacts[name].directory for name in (*planned.parents, *planned.reads)},
            out_dir=claim.work_dir,
            scratch_dir=claim.scratch_dir,
            run_dir=run.run_dir,
            attempt=run.attempt,
            meter=meter,
            window=window,
            device=device,
            measurement=planned.settings.get("measurement", 1),
            keyed=planned.settings,
        )
        # Of unfinished attempts at this artifact, also of those whose work was lost.
        before = earlier_attempts(
            claim.scratch_dir,
            window=f"run/{planned.name}",
            interval_s=run.config.telemetry.interval_s,
        )
        if run.company and planned.is_assisted:
            run.company.tell(to_values(Call.of(planned.stage, work, claim.artifact_dir)))
            if planned.stage == "distill":  # From here to its end ranks go in step.
                window.synchronize = together(synchronize)
        planned.build(work)
    assert window.row
    if run.company and planned.is_assisted:
        run.company.tell(to_values(Built(run.config.gpu.device)))
        run.company.wait_for_answers()
    record = make_record(
        planned.identity,
        attempts=[*before, asdict(window.row)],
        run=run.run_dir.name,
        gpus=[gpu.name for gpu in run.gpus],
    )
    write_json(claim.work_dir / ARTIFACT_NAME, record)
    if planned.stage == "distill":
        parents = [artifacts[name].record for name in planned.parents]
        write_energy(run.config, claim.work_dir, record, parents)
    claim.commit()
    artifact = Artifact(claim.artifact_dir, record, reused=False)
    log.info("%s: built, %s, key %s", planned.name, in_words(artifact.energy), planned.key)
    return artifact


def stopped_by(artifacts: Mapping[str, Artifact]) -> str | None:
    """What ended the student's training, target_tokens or budget_kj; None without a student."""
    from kdwatts.stages.distill import SUMMARY_NAME

    if "distill" not in artifacts:
        return None
    return read_json(artifacts["distill"].directory / SUMMARY_NAME)["stopped_by"]
