"""A sweep on Slurm: what is made first, one array of what is unfinished, and a wait for its end."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from omegaconf import DictConfig, OmegaConf, open_dict

from kdwatts import jobs, sweep
from kdwatts.config import Config, to_config
from kdwatts.hardware import resolve_gpu
from kdwatts.manifest import amend_status, read_status
from kdwatts.records import SCHEMA, append_jsonl, read_jsonl
from kdwatts.refusal import in_one_sentence
from kdwatts.store import Store

log = logging.getLogger(__name__)

JOBS_NAME = "jobs.jsonl"
"""In the folder of a sweep: what was submitted to make which run or artifact, a line each time."""

BEFORE_THE_STUDENT = ("shards", "generate", "teacher")
"""Stages of a job that is submitted before the array."""

EXIT_INTERRUPTED = 130
"""What a shell says of a command that Ctrl-C ended."""


@dataclass(frozen=True)
class Element:
    """One run of the sweep."""

    index: int
    overrides: list[str]
    run_dir: Path
    tree: DictConfig
    config: Config


@dataclass(frozen=True)
class Build:
    """The work of a job before the array, as submitit calls it there."""

    launcher: Any
    arguments: tuple[Any, ...]

    def __call__(self) -> Any:
        # The value raises what was raised, so that Slurm, and who waits for the job, see it fail.
        return self.launcher(*self.arguments).return_value

    def checkpoint(self) -> Any:
        """What submitit keeps for the job's next turn."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def launch(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Have Slurm run what of the sweep is not done, and return when its queue holds none of it.

    Jobs of an earlier driver of the same folder are waited for, their runs not sent again. Raises
    ValueError for a sweep that one array cannot be, or whose folder holds other runs.
    """
    if shutil.which("sbatch") is None:
        raise RuntimeError(
            "hydra/launcher=slurm sends jobs by sbatch, which this machine does not have; run it "
            "on a login node, or leave the launcher out"
        )
    sweep_dir = Path(str(launcher.config.hydra.sweep.dir)).absolute()
    elements = [
        _element(launcher, sweep_dir, first + number, list(overrides))
        for number, overrides in enumerate(job_overrides)
    ]
    _check_folders(elements)
    for element in elements:
        sweep.check_same(element.run_dir, element.tree)
    for element in elements:
        sweep.entered[element.run_dir] = sweep_dir
    holders = _holders(sweep_dir)
    todo = [element for element in elements if not _is_in_hand(element, holders)]
    try:
        if todo:
            _submit(launcher, sweep_dir, todo, holders)
        jobs.wait_for(holders.values())
    except KeyboardInterrupt:
        _leave(sweep_dir, holders)
    _settle(sweep_dir, holders)
    # Each run's status.json says how it ended; table and exit code follow from them.
    return [JobReturn(status=JobStatus.COMPLETED) for _ in elements]


def _element(launcher: Any, sweep_dir: Path, index: int, overrides: list[str]) -> Element:
    """A run as Hydra composes it in its job."""
    tree = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, overrides)
    with open_dict(tree):
        tree.hydra.job.num = index
        run_dir = sweep_dir / str(tree.hydra.sweep.subdir)
        del tree["hydra"]
    return Element(index, overrides, run_dir, tree, to_config(resolve_gpu(tree, [])))


def _check_folders(elements: Sequence[Element]) -> None:
    """Raise ValueError when runs would share a folder."""
    for element in elements:
        if [other.run_dir for other in elements].count(element.run_dir) > 1:
            raise ValueError(
                f"several runs of the sweep would share {element.run_dir}; let "
                "hydra.sweep.subdir hold ${hydra.job.num}"
            )


def _holders(sweep_dir: Path) -> dict[str, str]:
    """Folder of a run or an artifact to the job from an earlier driver that is still at it."""
    path = sweep_dir / JOBS_NAME
    rows = read_jsonl(path) if path.is_file() else ()
    sent = {folder: job for row in rows for folder, job in row["jobs"].items()}
    alive = jobs.surely_alive(set(sent.values()))
    return {folder: job for folder, job in sent.items() if job in alive}


def _is_in_hand(element: Element, holders: dict[str, str]) -> bool:
    """Whether a run need not be sent: it is done, or a job of an earlier driver is at it."""
    job = holders.get(str(element.run_dir))
    if job is None and sweep.is_done(element.run_dir):
        log.info("#%d: done before, not sent again: %s", element.index, element.run_dir)
        sweep.tell(element.run_dir, "done", "before this command")
        return True
    if job:
        log.info("#%d: already job %s, not sent again: %s", element.index, job, element.run_dir)
    return job is not None


def _submit(
    launcher: Any, sweep_dir: Path, todo: Sequence[Element], holders: dict[str, str]
) -> None:
    """Submit what comes first, then the array; `holders` has the jobs of all of it afterwards."""
    try:
        builders = _submit_builds(launcher, sweep_dir, todo, holders)
        launcher.promised = sorted(builders)
        executor = _executor(launcher, builders.values())
        arguments = [_arguments(element.overrides, element.index) for element in todo]
        sent = executor.map_array(launcher, *zip(*arguments, strict=True))
    except Exception as error:
        for element in todo:
            sweep.tell(element.run_dir, "failed", f"not sent: {in_one_sentence(error)}")
        raise
    folders = [str(element.run_dir) for element in todo]
    _note(sweep_dir, holders, dict(zip(folders, (job.job_id for job in sent), strict=True)))
    for element, job in zip(todo, sent, strict=True):
        overrides = " ".join(filter_overrides(element.overrides))
        log.info("#%d: sent as job %s: %s", element.index, job.job_id, overrides)


def _submit_builds(
    launcher: Any, sweep_dir: Path, todo: Sequence[Element], holders: dict[str, str]
) -> dict[str, str]:
    """Submit a job for all that teachers say and the store lacks; each artifact to its job.

    Of two that stand on one missing artifact the second waits for the first, which makes it.
    """
    from kdwatts.pipeline import plan

    builders: dict[str, str] = {}
    for element in todo:
        # A plan loads torch, which a driver whose runs have no teacher need not wait for.
        if not (element.config.launch.teacher_first and element.config.paradigm.needs_teacher):
            continue
        store = Store(Path(element.config.store_dir))
        nodes = [node for node in plan(element.config, []) if node.stage in BEFORE_THE_STUDENT]
        last = nodes[-1]
        if last.stage == "shards" or store.find(last.stage, last.key):
            continue
        missing = [
            str(store.artifact_dir(node.stage, node.key))
            for node in nodes
            if not store.find(node.stage, node.key)
        ]
        builders |= {path: holders[path] for path in missing if path in holders}
        if missing[-1] in builders:
            continue
        name = f"{last.stage}-{last.key[:8]}"
        run_dir = sweep_dir / name
        sweep.entered[run_dir] = sweep_dir
        overrides = [*element.overrides, f"until={last.stage}", f"hydra.sweep.subdir={name}"]
        before = [builders[path] for path in missing if path in builders]
        executor = _executor(launcher, before)
        job = executor.submit(Build(launcher, _arguments(overrides, element.index)))
        made = {path: job.job_id for path in missing if path not in builders}
        _note(sweep_dir, holders, {str(run_dir): job.job_id, **made})
        builders |= made
        log.info("%s: first sent as job %s: %s", name, job.job_id, run_dir)
    return builders


def _executor(launcher: Any, after: Iterable[str]) -> Any:
    """What submits to Slurm with the launcher's parameters, to begin when jobs `after` are done."""
    import submitit

    params = dict(launcher.params)
    executor = submitit.AutoExecutor(
        folder=params.pop("submitit_folder"),
        cluster="slurm",
        slurm_max_num_timeout=params.pop("max_num_timeout"),
    )
    if ids := sorted(set(after)):
        extra = dict(params["additional_parameters"])
        theirs = [extra["dependency"]] if "dependency" in extra else []
        extra["dependency"] = ",".join([*theirs, f"afterok:{':'.join(ids)}"])
        extra["kill-on-invalid-dep"] = "yes"
        params["additional_parameters"] = extra
    general = set(OmegaConf.structured(BaseQueueConf))
    executor.update_parameters(
        **{name if name in general else f"slurm_{name}": value for name, value in params.items()}
    )
    return executor


def _arguments(overrides: list[str], index: int) -> tuple[Any, ...]:
    """What Hydra's launcher is called with in a job."""
    return overrides, "hydra.sweep.dir", index, f"job_id_for_{index}", Singleton.get_state()


def _note(sweep_dir: Path, holders: dict[str, str], sent: dict[str, str]) -> None:
    """Remember what was sent, here and for a driver after this one."""
    holders |= sent
    time_utc = datetime.now(UTC).isoformat(timespec="seconds")
    append_jsonl(sweep_dir / JOBS_NAME, {"schema": SCHEMA, "time_utc": time_utc, "jobs": sent})


def _leave(sweep_dir: Path, holders: dict[str, str]) -> NoReturn:
    """End this driver, not its jobs."""
    arrays = sorted({job.partition("_")[0] for job in holders.values()})
    log.warning(
        "stopped waiting; the jobs go on: scancel %s ends them, the same command with "
        "hydra.sweep.dir=%s waits for them again",
        " ".join(arrays),
        sweep_dir,
    )
    for run_dir in sweep.entered:
        job = holders.get(str(run_dir))
        if job and not sweep.is_done(run_dir) and read_status(run_dir).get("job") != job:
            sweep.tell(run_dir, "waiting", f"as job {job}")
    sys.exit(EXIT_INTERRUPTED)


def _settle(sweep_dir: Path, holders: dict[str, str]) -> None:
    """Find out how those runs ended whose jobs had no time to say it."""
    unfinished = {
        run_dir: holders[str(run_dir)]
        for run_dir in sweep.entered
        if str(run_dir) in holders and not sweep.is_done(run_dir)
    }
    endings = jobs.endings(unfinished.values())
    for run_dir, job in unfinished.items():
        status, ending = read_status(run_dir), endings.get(job)
        logs_dir = sweep_dir / ".submitit" / job
        # Of an element that is cancelled while it waits Slurm keeps nothing.
        said = f"Slurm says {ending}" if ending else "Slurm has no record of it, was it cancelled?"
        said += f", see {logs_dir}" if any(logs_dir.glob("*.err")) else ""
        if status.get("job") != job:
            sweep.tell(run_dir, "failed", f"job {job} did not come to begin it: {said}")
        elif status["state"] == "running":
            reason = f"job {job} ended without a word at {status['stage']}: {said}"
            amend_status(run_dir, state="failed", error=reason)
        elif status["state"] == "preempted":
            sweep.tell(run_dir, "preempted", f"{status['error']} ({said})")
