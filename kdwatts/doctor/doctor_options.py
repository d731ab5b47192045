"""The options of `python -m kdwatts.doctor`."""

from __future__ import annotations

import argparse

from kdwatts.runtime.paths import argument_path

DESCRIPTION = """\
Examines this machine: surroundings, instruments, speed and numbers. Each verdict says what was
found, what it was held against, and what to do.

  python -m kdwatts.doctor
  python -m kdwatts.doctor --gpu h100 --model llama31_8b_to_1b --minutes 5
  srun --gres=gpu:1 python -m kdwatts.doctor --model qwen25_7b_to_1b5 store_dir=/shared/store
"""

EPILOG = """\
It writes doctor.json to the folder --out, and to the store, where manifests, plans and reports of
this host and this GPU find it. The first GPU of the job is examined; CUDA_VISIBLE_DEVICES chooses
another. The exit code is 0 where nothing is wrong, 1 where something is, 2 when the command was
refused, and 130 after Ctrl-C.
"""

PAIRS = {"cpu": "tiny", "cuda": "llama31_8b_to_1b"}
"""The default of --model, without a GPU and with one."""

_MOST_MINUTES = 120


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m kdwatts.doctor",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add(
        "--gpu",
        metavar="NAME",
        help="option of the group gpu that this machine should be (default: what is found)",
    )
    add(
        "--model",
        metavar="PAIR",
        help="pair of models whose step is measured and whose plan is checked (default: "
        f"{PAIRS['cpu']} without a GPU, {PAIRS['cuda']} with one)",
    )
    add(
        "--minutes",
        type=_minutes,
        default=5.0,
        metavar="M",
        help="time that all of it may take (default 5)",
    )
    add(
        "--out",
        type=argument_path,
        metavar="DIR",
        help="folder of doctor.json (default: runs/doctor/DATE/TIME)",
    )
    add(
        "--config-dir",
        metavar="DIR",
        help="folder with options of your own, such as a pair; as for python -m kdwatts",
    )
    add(
        "words",
        nargs="*",
        metavar="KEY=VALUE",
        help="other settings, as for python -m kdwatts: store_dir=DIR, telemetry.rapl_root=DIR",
    )
    return made


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= _MOST_MINUTES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time in minutes; give a number above 0, at most {_MOST_MINUTES}"
        )
    return minutes
