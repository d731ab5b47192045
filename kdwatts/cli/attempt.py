"""One attempt at a run, as Hydra starts it: meet the other ranks, execute, write how it ended."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from kdwatts.artifacts.hardware import check_gpus, resolve_gpu
from kdwatts.artifacts.manifest import (
    amend_status,
    check_alone,
    next_attempt,
    write_manifest,
    write_status,
)
from kdwatts.artifacts.store import Store
from kdwatts.cli import guards, sweep
from kdwatts.cli.closing import closing_words
from kdwatts.cli.effects import WITHOUT_RUN
from kdwatts.cli.failure import keep_trace, print_failure
from kdwatts.cli.rank_failure import MEETING, GoesOn, conclude, end_run
from kdwatts.cli.refusal import in_one_sentence
from kdwatts.cli.run_folders import keep_first_command, settings_of_first_start
from kdwatts.cli.sweep import EXIT_FAILED, EXIT_PREEMPTED
from kdwatts.config.checks import to_config
from kdwatts.runtime import interrupt, slurm_jobs
from kdwatts.runtime.interrupt import Preempted, deferred
from kdwatts.runtime.ranks import Launch, launched
from kdwatts.runtime.screen import log_errors_only
from kdwatts.runtime.streams import EXIT_UNREAD, is_unread
from kdwatts.telemetry.holds import sole_user
from kdwatts.telemetry.node_facts import facts_of_this_node
from kdwatts.telemetry.nvml import list_gpus
from kdwatts.training.cause import Place, RankFailed

if TYPE_CHECKING:
    from kdwatts.training.company import Company

log = logging.getLogger(__name__)

SETTINGS_OF_TORCH = {
    # Below an error torch says in 25 lines of addresses what a sentence of ours says in one.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    # After an error NCCL's watchdog aborts the process, lest it trains on what never arrived. It
    # waits four times this before, which leaves our sentence the time to be found and written.
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "15000",
}
"""Variables that torch reads as it is imported, where the user has not set them."""

PATIENCE_RATIO = 0.75
"""Of the warning before a time limit: how long a stage without a step boundary is let go on."""


def run(tree: DictConfig) -> None:
    """One run: Hydra calls this with the composed configuration, once per element of a sweep.

    Raises SystemExit, after one sentence on stderr, for a run that did not end well; only in a
    sweep on this machine the next run follows one that failed. Hydra would put words of its own
    before an exception, and after it.
    """
    settings = HydraConfig.get()
    run_dir, leads = Path(settings.runtime.output_dir), launched().leads
    if not leads:
        log_errors_only()
    is_swept = not OmegaConf.is_missing(settings.job, "num")
    try:
        _run(tree, run_dir, is_swept)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and is_unread(sys.stdout):
            sys.exit(EXIT_UNREAD)
        # The first rank says of all that they stop; the others have been printed.
        is_said = isinstance(error, RankFailed | GoesOn) or (
            isinstance(error, Preempted) and not leads
        )
        if not is_said:
            print_failure(error, run_dir if leads else None)
        if isinstance(error, Preempted):
            sys.exit(EXIT_PREEMPTED)
        # Ranks cannot go on to the next run, of which some may have gone.
        if not is_swept or slurm_jobs.is_submitted() or launched().world > 1:
            sys.exit(EXIT_FAILED)
        if run_dir not in sweep.known_outcomes:
            sweep.note_outcome(run_dir, "failed", in_one_sentence(error))
    else:
        if leads and not is_swept:
            print(closing_words(run_dir))


def _run(tree: DictConfig, run_dir: Path, is_swept: bool) -> None:
    """As `run`; raises what stopped it.

    Of several ranks the first runs it, in its folder, and the others help where it calls them.
    """
    company, state = _meet(tree, run_dir), "failed"
    if company and not company.ranks.leads:
        _follow(company)
        return
    try:
        if not (is_swept and _was_done(run_dir, tree)):
            overrides = list(HydraConfig.get().overrides.task)
            run_in(run_dir, tree, overrides, company, hydra_tree=HydraConfig.instance().cfg)
        state = "done"
    except Preempted as stop:
        state = "preempted"
        if not isinstance(stop, GoesOn):
            _requeue(run_dir, stop)
        raise
    finally:
        if company:
            from kdwatts.stages.rank_messages import Ended, to_values

            company.tell_last(to_values(Ended(state)))


def _was_done(run_dir: Path, tree: DictConfig) -> bool:
    """Whether this run of a sweep was finished by an earlier command, which is said.

    Raises ValueError when the folder holds another run. In a job the driver has looked before, and
    what it sent goes on by the settings of its first start.
    """
    sweep.sweep_dirs[run_dir] = Path(HydraConfig.get().sweep.dir).absolute()
    if not slurm_jobs.is_submitted():
        try:
            sweep.check_same(run_dir, tree)
        except ValueError as error:
            sweep.note_outcome(run_dir, "failed", f"not touched: {in_one_sentence(error)}")
            raise
    if not sweep.is_done(run_dir):
        return False
    log.info("done before, not run again: %s", run_dir)
    sweep.note_outcome(run_dir, "done", "before this command")
    return True


def _requeue(run_dir: Path, stop: Preempted) -> None:
    """In a job of a sweep, see to its next turn, and say so where it gets none."""
    try:
        slurm_jobs.requeue(interrupt.received())
    except Exception as error:
        reason = f"{stop}; {in_one_sentence(error)}"
        amend_status(run_dir, error=reason)
        raise Preempted(reason) from error


def _meet(tree: DictConfig, run_dir: Path) -> Company | None:
    """The other ranks of this launch; None for a process that is alone.

    Raises RuntimeError when they do not find each other; the first rank's status.json says so.
    """
    ranks = launched()
    if ranks.world == 1:
        return None
    for name, value in SETTINGS_OF_TORCH.items():
        os.environ.setdefault(name, value)
    from kdwatts.training.meeting import EndedByAnother, meet
    from kdwatts.training.sign_of_life import SignOfLife

    company: Company | None = None

    def watch(met: Company) -> None:
        nonlocal company
        company = met
        if ranks.leads:
            met.place = Place(str(run_dir), next_attempt(run_dir), tree.cluster.max_requeues)
        SignOfLife(met, lambda cause: end_run(met, cause)).start()

    try:
        gpus = list_gpus()
        device_type = resolve_gpu(tree, gpus).gpu.device
        return meet(
            ranks,
            device_type,
            store_dir=Store(tree.store_dir).root,
            gpus=gpus,
            watch=watch,
        )
    except EndedByAnother:
        sys.exit(EXIT_FAILED)
    except Exception as error:
        if company and (cause := company.cause_behind(error)):
            raise conclude(company, cause) from error
        if ranks.leads:
            attempt, text = next_attempt(run_dir), in_one_sentence(error)
            write_status(run_dir, state="failed", stage=MEETING, attempt=attempt, error=text)
        raise


def _follow(company: Company) -> None:
    """A run of a rank that helps; it ends as the first rank's does, which tells why.

    Only of an error of its own it speaks itself.
    """
    from kdwatts.stages.following import follow

    try:
        with deferred():
            state = follow(company)
    except Preempted:
        sys.exit(EXIT_PREEMPTED)
    except Exception as error:
        if cause := company.cause_behind(error):
            stop = conclude(company, cause)
            sys.exit(EXIT_PREEMPTED if isinstance(stop, GoesOn) else EXIT_FAILED)
        company.complain(print_failure(error, company.place and company.place.folder))
        sys.exit(EXIT_FAILED)
    finally:
        company.leave()
    if state != "done":
        sys.exit(EXIT_PREEMPTED if state == "preempted" else EXIT_FAILED)


def run_in(
    run_dir: Path,
    tree: DictConfig,
    overrides: Sequence[str] = (),
    company: Company | None = None,
    *,
    hydra_tree: Any = None,
) -> None:
    """One attempt in `run_dir`, whose status.json says at every moment how far it is.

    `company` are the ranks of this launch, of which this is the first; `hydra_tree` are Hydra's own
    settings, for .hydra. Raises what stopped it, after the reason is in status.json.
    """
    with guards.sole_worker(run_dir):
        check_alone(run_dir)
        if hydra_tree is not None:
            keep_first_command(run_dir, tree, hydra_tree)
        _attempt(run_dir, tree, overrides, company)


def _attempt(
    run_dir: Path, tree: DictConfig, overrides: Sequence[str], company: Company | None
) -> None:
    """As `run_in`, in a folder in which nobody else is at work."""
    attempt, stage = next_attempt(run_dir), "configure"
    patience_s = PATIENCE_RATIO * tree.cluster.signal_delay_s if slurm_jobs.is_submitted() else None

    if company:
        company.place = Place(str(run_dir), attempt, tree.cluster.max_requeues)

    def notice(name: str) -> None:
        nonlocal stage
        if company and company.verdict:
            raise RankFailed(company.verdict)
        stage = name
        write_status(run_dir, state="running", stage=name, attempt=attempt)

    def conclude_own(
        state: str, error: BaseException | None = None, stopped_by: str | None = None
    ) -> None:
        interrupt.settle()
        write_status(
            run_dir,
            state=state,
            stage=stage,
            attempt=attempt,
            error=None if error is None else in_one_sentence(error),
            stopped_by=stopped_by,
            node=company.host_of(0) if company and state == "failed" else None,
        )

    with deferred(patience_s):
        try:
            notice(stage)
            stopped_by = _execute(run_dir, tree, overrides, attempt, notice, company)
        except BaseException as error:
            interrupt.settle()
            if company and (cause := company.cause_behind(error)):
                raise conclude(company, cause) from error
            if isinstance(error, Preempted):
                conclude_own("preempted", error)
                raise
            if company:
                company.complain(in_one_sentence(error))
            conclude_own("failed", error)
            keep_trace(run_dir, error)
            raise
        conclude_own("done", stopped_by=stopped_by)


def _execute(
    run_dir: Path,
    tree: DictConfig,
    overrides: Sequence[str],
    attempt: int,
    notice: Callable[[str], None],
    company: Company | None,
) -> str | None:
    """Run every stage; what ended the student's training, None where there is none."""
    from kdwatts.pipeline import Run, execute, stopped_by
    from kdwatts.stages.graph import plan_of_attempt

    guards.check_unchanged()
    nodes = company.nodes if company else [facts_of_this_node(list_gpus())]
    gpus = [gpu for node in nodes for gpu in node.gpus]
    tree = settings_of_first_start(run_dir, resolve_gpu(tree, nodes[0].gpus), overrides)
    config = to_config(tree)
    if config.until in WITHOUT_RUN:
        raise ValueError(
            f"until={config.until} begins no run, and this command begins one; choose another until"
        )
    check_gpus(config, nodes)
    if config.gpu.device != "cuda":
        nodes, gpus = [replace(node, gpus=[]) for node in nodes], []
    store = Store(config.store_dir)
    store.check_writable()
    write_manifest(run_dir, config, nodes, attempt=attempt, overrides=overrides)
    stages = plan_of_attempt(config, gpus, company.launch if company else Launch(), run_dir)
    sweep.check_prerequisites()
    run = Run(config, run_dir, store, attempt, gpus, notice, company)
    with sole_user(nodes[0].gpus, allowed=config.telemetry.allow_shared):
        return stopped_by(execute(run, stages))
