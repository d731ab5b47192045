"""The command line: refuse early in one sentence, then hand over to Hydra."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack

# Before torch is imported: workers that spin starve the sampler's thread and each other.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from pynvml import NVMLError
from yaml import YAMLError

from kdwatts.artifacts.store import Store
from kdwatts.cli import sweep
from kdwatts.cli.attempt import run
from kdwatts.cli.closing import report_line
from kdwatts.cli.failure import print_failure, raised_by_hydra
from kdwatts.cli.flags import ConfigFile, config_file, parse
from kdwatts.cli.guards import goes_to_slurm
from kdwatts.cli.partition_room import launch_of
from kdwatts.cli.preflight import VERSION_BASE, Command, command_of
from kdwatts.cli.refusal import EXPECTED, in_one_sentence
from kdwatts.cli.run_folders import folder_of, folder_of_hydra
from kdwatts.cli.sweep import EXIT_FAILED
from kdwatts.config.checks import check
from kdwatts.config.experiment import Config
from kdwatts.runtime.ranks import Launch, launched, own_launch
from kdwatts.runtime.streams import is_unread, print_anywhere, until_unread
from kdwatts.runtime.whole_install import EXIT_REFUSED
from kdwatts.telemetry.nvml import list_gpus

SWEEP_OF_ONE = (
    "kdwatts: -m begins a sweep, and this command has one value for each setting, so the sweep has "
    "one run; write several values, such as training.seed=0,1, or leave -m out"
)

REFUSED = (
    *(ValueError, NVMLError, YAMLError, HydraException, OmegaConfBaseException),
    *(AttributeError, AssertionError, RecursionError, OSError),
)
"""What composing raises; two of these come from OmegaConf for a key below a part that is null."""


def _print_plans(command: Command) -> None:
    from kdwatts.planning.describe import describe
    from kdwatts.planning.feasibility import check_requests, unmade_teacher
    from kdwatts.planning.fits import check_memory
    from kdwatts.planning.roofline import costs_left, sweep_line
    from kdwatts.stages.graph import plan

    configs, is_sent = command.configs, command.is_sweep and goes_to_slurm(command.tree)
    launch = launch_of(command.tree.hydra.launcher) if is_sent else own_launch()
    gpus, costs = list_gpus(), {}
    for config in configs:
        check(config, ranks=launch.ranks)
    for config in configs:
        is_early = is_sent and launch.nodes > 1 and config.launch.teacher_first
        before = Launch(1, launch.ranks_per_node) if is_early else None
        present = gpus if config.gpu.device == "cuda" else []
        store = Store(config.store_dir)
        stages = [] if unmade_teacher(config.model) else plan(config, present, launch)
        print(describe(config, stages, store, present, launch, before=before), end="\n\n")
        costs |= costs_left(config, stages, store, launch, before=before) or {}
    if len(configs) > 1 and costs:
        print(sweep_line(costs, len(configs)), end="\n\n")
    for config in configs:
        check_memory(config, launch)
        check_requests(config)


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
    try:
        arguments = parse(sys.argv[1:])
        source, leads = config_file(arguments), launched().leads
    except (ValueError, OSError) as error:
        # Not by `print_sentence`, which asks for the rank: perhaps it is what is wrong.
        print(f"kdwatts: {in_one_sentence(error)}", file=sys.stderr)
        sys.exit(EXIT_REFUSED)
    asks_only = any(
        (arguments.help, arguments.hydra_help, arguments.info, arguments.shell_completion)
    )
    if not leads and (asks_only or arguments.cfg):
        return
    overrides = list(arguments.overrides)
    # Hydra parses once more, and takes overrides on one side of its flags only. It would look for a
    # relative --config-path beside its caller's file.
    path = [f"--config-path={source.folder}"] if arguments.config_path else []
    flags = [word for word in sys.argv[1:] if word not in overrides]
    sys.argv[1:] = [*flags, *path, *overrides]
    num_runs, code, command = 0, None, None
    try:
        if not asks_only:
            command = _checked(arguments, source, leads=leads)
            num_runs = len(command.configs)
            if not arguments.cfg and command.until & {"plan", "prefetch"}:
                if leads and "plan" not in command.until:
                    _prefetch(command.configs)
                return
        with ExitStack() as stack:
            try:
                stack.enter_context(folder_of_hydra(leads, None if arguments.cfg else command))
            except EXPECTED as error:  # Nothing is written yet.
                print_failure(error)
                sys.exit(EXIT_REFUSED)
            stack.enter_context(raised_by_hydra())
            hydra.main(config_path=str(source.folder), config_name=source.name, **VERSION_BASE)(
                run
            )()
    except Exception as error:
        if isinstance(error, BrokenPipeError) and is_unread(sys.stdout):
            raise
        print_failure(error)
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
        if not code:
            print(report_line(sweep.sweep_dirs[outcomes[0].run_dir]))
    if code:
        sys.exit(code)


def _checked(arguments: Namespace, source: ConfigFile, *, leads: bool) -> Command:
    """What the command asks for, whose plan is printed where `until=plan` asks for it.

    Exits with 2, after one sentence, where a run or a plan is impossible.
    """
    try:
        command = command_of(
            arguments.overrides,
            multirun=arguments.multirun,
            source=source,
            is_shown=bool(arguments.cfg),
        )
        folder_of(command.tree, is_sweep=command.is_sweep)
        if leads and not arguments.cfg and command.is_sweep_of_one_here:
            print(SWEEP_OF_ONE, file=sys.stderr)
        if leads and not arguments.cfg and "plan" in command.until:
            _print_plans(command)
    except BrokenPipeError:
        raise  # Nobody reads the plan any more.
    except REFUSED as error:
        if leads:
            print_failure(error)
        sys.exit(EXIT_REFUSED)
    return command
