"""A sweep on Slurm: jobs for shared teachers, one array of the unfinished runs, a wait for both."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from omegaconf import DictConfig, OmegaConf, open_dict

from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.artifacts.store import Store
from kdwatts.cli import ledger, sbatch, sweep
from kdwatts.cli.partition_room import check_room, launch_of
from kdwatts.cli.refusal import in_one_sentence
from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config
from kdwatts.runtime import slurm_jobs
from kdwatts.runtime.interrupt import EXIT_INTERRUPTED
from kdwatts.runtime.ranks import Launch

log = logging.getLogger(__name__)

BEFORE_THE_STUDENT = ("shards", "generate", "teacher")
"""Stages of a job that is submitted before the array."""


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
        # A run that fails ends the job with its exit code, which Slurm and the array see; the value
        # raises what Hydra failed at before the run.
        return self.launcher(*self.arguments).return_value

    def checkpoint(self) -> Any:
        """What submitit keeps for the job's next turn."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def launch(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Have Slurm run what of the sweep is not done, and return when its queue holds none of it.

    Jobs of an earlier driver of the same folder are waited for, their runs not sent again. Raises
    ValueError, before any is sent, for a sweep that one array cannot be, that the partition has no
    room for, whose folder holds other runs or is none for Slurm's logs, or one of whose runs is
    impossible.
    """
    if shutil.which("sbatch") is None:
        raise RuntimeError(
            "hydra/launcher=slurm sends jobs by sbatch, which this machine does not have; run it "
            "on a login node, or leave the launcher out"
        )
    sweep_dir = Path(str(launcher.config.hydra.sweep.dir)).absolute()
    sbatch.check_folder(sweep_dir)
    check_room(launcher.params)
    elements = [
        _element(launcher, sweep_dir, first + number, list(overrides))
        for number, overrides in enumerate(job_overrides)
    ]
    _check_folders(elements)
    for element in elements:
        sweep.check_same(element.run_dir, element.tree)
    holders = ledger.holders(sweep_dir)
    todo = [element for element in elements if not _is_in_hand(element, holders)]
    same = set.intersection(*(set(element.overrides) for element in elements))
    plans = [_plan(element, launch_of(launcher.params), same) for element in todo]
    theirs = [run_dir for run_dir in map(Path, holders) if run_dir.parent == sweep_dir]
    for run_dir in [*(element.run_dir for element in elements), *theirs]:
        sweep.sweep_dirs[run_dir] = sweep_dir
    try:
        if todo:
            _submit(launcher, sweep_dir, todo, plans, holders)
        slurm_jobs.wait_for(holders.values())
        ledger.settle(sweep_dir, holders)
    except KeyboardInterrupt:
        _leave(sweep_dir, holders)
    except Exception:
        ledger.note_queue_states(holders)
        raise
    # Each run's status.json says how it ended; table and exit code follow from them.
    return [JobReturn(status=JobStatus.COMPLETED) for _ in elements]


def _plan(element: Element, launch: Launch, same: Collection[str]) -> list[Any]:
    """The stages of a run. Raises ValueError for one that cannot be: then none is sent.

    `same` are the overrides of all runs, which do not tell them apart.
    """
    from kdwatts.planning.feasibility import plan_ahead

    try:
        return plan_ahead(element.config, launch)
    except (ValueError, RuntimeError, OSError) as error:
        own = " ".join(one for one in element.overrides if one not in same)
        raise ValueError(
            f"{in_one_sentence(error)}; nothing is sent, for this is run #{element.index} of the "
            f"sweep{own and f', {own}'}"
        ) from error


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


def _is_in_hand(element: Element, holders: dict[str, str]) -> bool:
    """Whether a run need not be sent: it is done, or a job of an earlier driver is at it."""
    job = holders.get(str(element.run_dir))
    if job is None and sweep.is_done(element.run_dir):
        log.info("#%d: done before, not sent again: %s", element.index, element.run_dir)
        sweep.note_outcome(element.run_dir, "done", "before this command")
        return True
    if job:
        log.info("#%d: already job %s, not sent again: %s", element.index, job, element.run_dir)
    return job is not None


def _submit(
    launcher: Any,
    sweep_dir: Path,
    todo: Sequence[Element],
    plans: Sequence[list[Any]],
    holders: dict[str, str],
) -> None:
    """Submit what comes first, then the array; `holders` has the jobs of all of it afterwards."""
    folders = [str(element.run_dir) for element in todo]
    try:
        builders = _submit_builds(launcher, sweep_dir, todo, plans, holders)
        launcher.prerequisites = sorted(builders)
        after = sorted(set(builders.values()))

        def note(ids: list[str]) -> None:
            ledger.note(sweep_dir, holders, dict(zip(folders, ids, strict=True)), after)

        sbatch.send(
            _executor(launcher, after),
            [(launcher, *_arguments(element.overrides, element.index)) for element in todo],
            f"the array of {len(todo)} runs" if len(todo) > 1 else "the run",
            note,
        )
    except Exception:
        _note_unsent(todo, holders)
        raise
    for element in todo:
        job = holders[str(element.run_dir)]
        log.info("#%d: sent as job %s: %s", element.index, job, _overrides(element))


def _note_unsent(todo: Sequence[Element], holders: dict[str, str]) -> None:
    """What stopped a submission is said once; the table is for what is in Slurm's hands or done."""
    for element in todo:
        if holders:
            sweep.note_outcome(element.run_dir, "failed", "not sent, see above")
        else:
            del sweep.sweep_dirs[element.run_dir]


def _submit_builds(
    launcher: Any,
    sweep_dir: Path,
    todo: Sequence[Element],
    plans: Sequence[list[Any]],
    holders: dict[str, str],
) -> dict[str, str]:
    """Submit a job for what the runs stand on and the store lacks; each artifact to its job.

    It is what teachers say. For runs on several nodes it is also what one rank makes alone, so that
    no node waits for it: each of these jobs has one node. Of two that stand on one missing artifact
    the second waits for the first, which makes it.
    """
    is_spread = launch_of(launcher.params).nodes > 1
    stages = (*BEFORE_THE_STUDENT, *(["contamination"] if is_spread else []))
    builders: dict[str, str] = {}
    for element, planned in zip(todo, plans, strict=True):
        needs_builds = is_spread or element.config.paradigm.needs_teacher
        if not (element.config.launch.teacher_first and needs_builds):
            continue
        store = Store(Path(element.config.store_dir))
        nodes = [node for node in planned if node.stage in stages]
        absent = {
            str(store.artifact_dir(node.stage, node.key)): node
            for node in nodes
            if not store.finished_dir(node.stage, node.key)
        }
        if not is_spread and (nodes[-1].stage == "shards" or nodes[-1] not in absent.values()):
            continue
        missing = list(absent)
        builders |= {path: holders[path] for path in missing if path in holders}
        left = [node for path, node in absent.items() if path not in builders]
        if not left:
            continue
        last = left[-1]
        name = f"{last.stage}-{last.key[:8]}"
        run_dir = sweep_dir / name
        overrides = [*element.overrides, f"until={last.stage}", f"hydra.sweep.subdir={name}"]
        before = sorted({builders[path] for path in missing if path in builders})
        made = [str(run_dir), *(path for path in missing if path not in builders)]

        def note(ids: list[str], made: list[str] = made, before: list[str] = before) -> None:
            ledger.note(sweep_dir, holders, dict.fromkeys(made, ids[0]), before)

        sbatch.send(
            _executor(launcher, before, nodes=1),
            [(Build(launcher, _arguments(overrides, element.index)),)],
            f"the job of {name}",
            note,
        )
        sweep.sweep_dirs[run_dir] = sweep_dir
        builders |= {path: holders[path] for path in made[1:]}
        log.info("%s: first sent as job %s: %s", name, holders[str(run_dir)], run_dir)
    return builders


def _executor(launcher: Any, after: Iterable[str], *, nodes: int | None = None) -> Any:
    """What submits jobs of so many nodes, or of those of a run, to begin after others."""
    site: Any = OmegaConf.to_container(launcher.config.cluster, resolve=True)
    params = launcher.params if nodes is None else {**launcher.params, "nodes": nodes}
    return sbatch.executor(params, site["extra"], site["setup"], after)


def _overrides(element: Element) -> str:
    return " ".join(filter_overrides(element.overrides)) or "no overrides"


def _arguments(overrides: list[str], index: int) -> tuple[Any, ...]:
    """What Hydra's launcher is called with in a job."""
    return overrides, "hydra.sweep.dir", index, f"job_id_for_{index}", Singleton.get_state()


def _leave(sweep_dir: Path, holders: dict[str, str]) -> NoReturn:
    """End this driver, not its jobs."""
    if arrays := sorted({job.partition("_")[0] for job in holders.values()}):
        log.warning(
            "stopped waiting; the jobs go on: scancel %s ends them, the same command with "
            "hydra.sweep.dir=%s waits for them again",
            " ".join(arrays),
            sweep_dir,
        )
    else:
        log.warning("stopped; nothing was sent")
    ledger.note_queue_states(holders)
    sys.exit(EXIT_INTERRUPTED)
