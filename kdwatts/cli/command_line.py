"""The command line: refuse early in one sentence, then hand over to Hydra."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch is imported: workers that spin starve the sampler's thread and each other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Hydra then raises what a job raised, and `main` decides how it is told.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pynvml import NVMLError
from safetensors import SafetensorError

from kdwatts.artifacts.hardware import check_gpus, resolve_gpu
from kdwatts.artifacts.manifest import (
    CONFIG_NAME,
    amend_status,
    check_alone,
    next_attempt,
    write_manifest,
    write_status,
)
from kdwatts.artifacts.store import Store
from kdwatts.cli import guards, sweep
from kdwatts.cli.effects import ASK_ONLY
from kdwatts.cli.preflight import VERSION_BASE, look
from kdwatts.cli.refusal import in_one_sentence
from kdwatts.cli.run_folders import folder_of, folder_of_hydra, keep_asked
from kdwatts.cli.sweep import EXIT_FAILED, EXIT_PREEMPTED
from kdwatts.config.checks import to_config
from kdwatts.config.experiment import Config
from kdwatts.runtime import interrupt, slurm_jobs
from kdwatts.runtime.interrupt import Preempted, deferred
from kdwatts.runtime.paths import conf_dir
from kdwatts.runtime.ranks import launched
from kdwatts.runtime.streams import is_unread, print_anywhere, until_unread
from kdwatts.telemetry.nvml import list_gpus

if TYPE_CHECKING:
    from kdwatts.training.parallel import Company

log = logging.getLogger(__name__)

EXIT_REFUSED = 2
"""Nothing was begun; how a run or a sweep ends is in kdwatts.cli.sweep."""

EXPECTED = (
    ValueError,
    RuntimeError,
    OSError,
    SafetensorError,
    NVMLError,
    HydraException,
    OmegaConfBaseException,
)
"""Told in one sentence; the run's folder has the traceback. Others are bugs and show it."""

REFUSED = (
    *(ValueError, NVMLError, HydraException, OmegaConfBaseException),
    *(AttributeError, AssertionError),
)
"""What composing raises; the last two come from OmegaConf for a key below a part that is null."""

PATIENCE_RATIO = 0.75
"""Of the warning before a time limit: how long a stage without a step boundary is let go on."""

TRACEBACK_NAME = "traceback.txt"


def run(tree: DictConfig) -> None:
    """One run: Hydra calls this with the composed configuration, once per element of a sweep.

    Of several ranks the first runs it, in its folder, and the others help where it calls them.
    """
    settings = HydraConfig.get()
    run_dir, overrides = Path(settings.runtime.output_dir), list(settings.overrides.task)
    company = _meet(tree, run_dir)
    if company and not company.ranks.leads:
        _follow(company)
        return
    is_swept, state = not OmegaConf.is_missing(settings.job, "num"), "failed"
    try:
        if not (is_swept and _was_done(Path(settings.sweep.dir).absolute(), run_dir, tree)):
            run_in(run_dir, tree, overrides, company, hydra_tree=HydraConfig.instance().cfg)
        state = "done"
    except Preempted as stop:
        state = "preempted"
        _requeue(run_dir, stop)
        if is_swept and not slurm_jobs.is_submitted():
            _tell(stop)
            sys.exit(EXIT_PREEMPTED)  # Hydra takes an exception for this run's alone and goes on.
        raise
    finally:
        if company:
            from kdwatts.pipeline import Ended

            company.tell_last(Ended(state))


def _was_done(sweep_dir: Path, run_dir: Path, tree: DictConfig) -> bool:
    """Whether this run of a sweep was finished by an earlier command, which is said.

    Raises ValueError when the folder holds another run. In a job the driver has looked before, and
    what it sent goes on by the settings of its first start.
    """
    sweep.entered[run_dir] = sweep_dir
    if not slurm_jobs.is_submitted():
        try:
            sweep.check_same(run_dir, tree)
        except ValueError as error:
            sweep.tell(run_dir, "failed", f"not touched: {in_one_sentence(error)}")
            raise
    if not sweep.is_done(run_dir):
        return False
    log.info("done before, not run again: %s", run_dir)
    sweep.tell(run_dir, "done", "before this command")
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

    Raises RuntimeError when they do not find each other, which the first rank's run is told.
    """
    ranks = launched()
    if ranks.world == 1:
        return None
    from kdwatts.training.parallel import meet

    try:
        return meet(ranks, resolve_gpu(tree, list_gpus()).gpu.device)
    except Exception as error:
        if ranks.leads:
            attempt, text = next_attempt(run_dir), in_one_sentence(error)
            write_status(run_dir, state="failed", stage="meet", attempt=attempt, error=text)
        raise


def _follow(company: Company) -> None:
    """A run of a rank that helps; it ends as the first rank's does, which tells why."""
    from kdwatts.pipeline import follow

    try:
        with deferred():
            state = follow(company)
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
            keep_asked(run_dir, tree, hydra_tree)
        _attempt(run_dir, tree, overrides, company)


def _attempt(
    run_dir: Path, tree: DictConfig, overrides: Sequence[str], company: Company | None
) -> None:
    """As `run_in`, in a folder in which nobody else is at work."""
    attempt, stage = next_attempt(run_dir), "configure"
    patience_s = PATIENCE_RATIO * tree.cluster.signal_delay_s if slurm_jobs.is_submitted() else None

    def notice(name: str) -> None:
        nonlocal stage
        stage = name
        write_status(run_dir, state="running", stage=name, attempt=attempt)

    def conclude(
        state: str, error: BaseException | None = None, stopped_by: str | None = None
    ) -> None:
        interrupt.settle()
        text = None if error is None else in_one_sentence(error)
        write_status(
            run_dir, state=state, stage=stage, attempt=attempt, error=text, stopped_by=stopped_by
        )

    with deferred(patience_s):
        try:
            notice(stage)
            stopped_by = _execute(run_dir, tree, overrides, attempt, notice, company)
        except Preempted as stop:
            conclude("preempted", stop)
            raise
        except BaseException as error:
            conclude("failed", error)
            with contextlib.suppress(OSError):  # The disk may be what failed.
                text = "".join(traceback.format_exception(error))
                (run_dir / TRACEBACK_NAME).write_text(text, "utf-8", "backslashreplace")
            raise
        conclude("done", stopped_by=stopped_by)


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
    from kdwatts.stages.graph import plan

    guards.check_unchanged()
    gpus = list_gpus()
    tree = _first_start_wins(resolve_gpu(tree, gpus), run_dir)
    config = to_config(tree)
    if config.until in ASK_ONLY:
        raise ValueError(
            f"until={config.until} makes no run, and --config-name and --config-path begin one; "
            "leave them out (--config-dir adds options), or choose another until"
        )
    check_gpus(config, gpus)
    gpus = gpus if config.gpu.device == "cuda" else []
    store = Store(config.store_dir)
    store.check_writable()
    write_manifest(run_dir, config, gpus, attempt=attempt, overrides=overrides)
    nodes = plan(config, gpus)
    sweep.check_promised()
    run = Run(config, run_dir, store, attempt, gpus, notice, company)
    with guards.sole_user(gpus, allowed=config.telemetry.allow_shared):
        return stopped_by(execute(run, nodes))


def _first_start_wins(tree: DictConfig, run_dir: Path) -> DictConfig:
    """The configuration of the folder's first attempt; this one's when it is the first.

    Where its artifacts lie and how it is sent, which change no result, are as asked for now.
    """
    path = run_dir / CONFIG_NAME
    if path.is_file():
        first = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
        assert isinstance(first, DictConfig)
        if sweep.differences(first, tree):
            log.warning("%s is of an earlier start and wins over this command's settings", path)
        for name in sweep.NOT_COMPARED:
            first[name.rstrip(".")] = tree[name.rstrip(".")]
        return first
    OmegaConf.save(tree, path, resolve=True)
    return tree


def _print_plans(configs: Sequence[Config]) -> None:
    from kdwatts.planning.describe import describe
    from kdwatts.planning.feasibility import unmade_teacher
    from kdwatts.planning.fits import check_memory
    from kdwatts.planning.roofline import costs_left, sweep_line
    from kdwatts.stages.graph import plan

    gpus, costs = list_gpus(), {}
    for config in configs:
        present = gpus if config.gpu.device == "cuda" else []
        store = Store(config.store_dir)
        nodes = [] if unmade_teacher(config.model) else plan(config, present)
        print(describe(config, nodes, store, present), end="\n\n")
        costs |= costs_left(config, nodes, store) or {}
    if len(configs) > 1 and costs:
        print(sweep_line(costs, len(configs)), end="\n\n")
    for config in configs:
        check_memory(config)


def _prefetch(configs: Sequence[Config]) -> None:
    from kdwatts.cli.prefetch import prefetch

    for line in prefetch(configs):
        print(line, flush=True)


def main() -> None:
    """Entry of `python -m kdwatts` and of the console script."""
    print_anywhere()
    with until_unread():
        _main()


def _main() -> None:
    arguments = get_args_parser().parse_intermixed_args()
    asks_only = any(
        (arguments.help, arguments.hydra_help, arguments.info, arguments.shell_completion)
    )
    is_own = arguments.config_path or arguments.config_name
    try:
        overrides, leads = list(arguments.overrides), launched().leads
    except ValueError as error:
        print(f"kdwatts: {error}", file=sys.stderr)
        sys.exit(EXIT_REFUSED)
    if not leads and (asks_only or arguments.cfg):
        return
    # Hydra parses once more, and takes overrides on one side of its flags only.
    sys.argv[1:] = [*(word for word in sys.argv[1:] if word not in overrides), *overrides]
    num_runs, code, command = 0, None, None
    try:
        if not asks_only and not is_own:
            try:
                command = look(
                    overrides,
                    multirun=arguments.multirun,
                    added_dir=arguments.config_dir,
                    is_shown=bool(arguments.cfg),
                )
                configs, num_runs = command.configs, len(command.configs)
                folder_of(command.tree, is_sweep=command.is_sweep)
                if any(config.until == "plan" for config in configs) and not arguments.cfg:
                    if leads:
                        _print_plans(configs)
                    return
            except REFUSED as error:
                if leads:
                    _tell(error)
                sys.exit(EXIT_REFUSED)
            if any(config.until == "prefetch" for config in configs) and not arguments.cfg:
                if leads:
                    _prefetch(configs)
                return
        with folder_of_hydra(leads, None if arguments.cfg else command):
            hydra.main(config_path=str(conf_dir()), config_name="config", **VERSION_BASE)(run)()
    except Preempted as stop:
        _tell(stop)
        code = EXIT_PREEMPTED
    except EXPECTED as error:
        if isinstance(error, BrokenPipeError) and is_unread(sys.stdout):
            raise
        _tell(error)
        code = EXIT_FAILED
    except SystemExit as stop:
        code = stop.code
    finally:
        outcomes = [sweep.outcome(run_dir) for run_dir in sweep.entered] if leads else []
        num_untouched = max(0, num_runs - len(outcomes))
        if outcomes:
            print(sweep.table(outcomes, num_untouched))
    if outcomes and not code:
        code = sweep.exit_code(outcomes, num_untouched)
    if code:
        sys.exit(code)


def _tell(error: Exception) -> None:
    ranks = launched()
    place = f" rank {ranks.rank}:" if ranks.rank else ""
    print(f"kdwatts:{place} {in_one_sentence(error)}", file=sys.stderr)
