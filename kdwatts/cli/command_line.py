"""The command line: refuse early in one sentence, then hand over to Hydra."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence

# Before torch is imported: workers that spin starve the sampler's thread and each other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Hydra then raises what a job raised, and `main` decides how it is said.
os.environ.setdefault("HYDRA_FULL_ERROR", "1")

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from pynvml import NVMLError
from safetensors import SafetensorError

from kdwatts.artifacts.store import Store
from kdwatts.cli import sweep
from kdwatts.cli.attempt import run
from kdwatts.cli.preflight import VERSION_BASE, Command, command_of
from kdwatts.cli.refusal import print_error
from kdwatts.cli.run_folders import folder_of, folder_of_hydra
from kdwatts.cli.sweep import EXIT_FAILED, EXIT_PREEMPTED
from kdwatts.config.experiment import Config
from kdwatts.runtime.interrupt import Preempted
from kdwatts.runtime.paths import conf_dir
from kdwatts.runtime.ranks import launched
from kdwatts.runtime.streams import is_unread, print_anywhere, until_unread
from kdwatts.telemetry.nvml import list_gpus

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
"""Said in one sentence; the run's folder has the traceback. Others are bugs and show it."""

REFUSED = (
    *(ValueError, NVMLError, HydraException, OmegaConfBaseException),
    *(AttributeError, AssertionError),
)
"""What composing raises; the last two come from OmegaConf for a key below a part that is null."""


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
            command = _checked(arguments, overrides, leads=leads)
            num_runs = len(command.configs)
            if not arguments.cfg and command.until & {"plan", "prefetch"}:
                if leads and "plan" not in command.until:
                    _prefetch(command.configs)
                return
        with folder_of_hydra(leads, None if arguments.cfg else command):
            hydra.main(config_path=str(conf_dir()), config_name="config", **VERSION_BASE)(run)()
    except Preempted as stop:
        print_error(stop)
        code = EXIT_PREEMPTED
    except EXPECTED as error:
        if isinstance(error, BrokenPipeError) and is_unread(sys.stdout):
            raise
        print_error(error)
        code = EXIT_FAILED
    except SystemExit as stop:
        code = stop.code
    finally:
        outcomes = [sweep.outcome(run_dir) for run_dir in sweep.sweep_dirs] if leads else []
        num_untouched = max(0, num_runs - len(outcomes))
        if outcomes:
            print(sweep.table(outcomes, num_untouched))
    if outcomes and not code:
        code = sweep.exit_code(outcomes, num_untouched)
    if code:
        sys.exit(code)


def _checked(arguments: Namespace, overrides: list[str], *, leads: bool) -> Command:
    """What the command asks for, whose plan is printed where `until=plan` asks for it.

    Exits with 2, after one sentence, where a run or a plan is impossible.
    """
    try:
        command = command_of(
            overrides,
            multirun=arguments.multirun,
            added_dir=arguments.config_dir,
            is_shown=bool(arguments.cfg),
        )
        folder_of(command.tree, is_sweep=command.is_sweep)
        if leads and not arguments.cfg and "plan" in command.until:
            _print_plans(command.configs)
    except REFUSED as error:
        if leads:
            print_error(error)
        sys.exit(EXIT_REFUSED)
    return command
