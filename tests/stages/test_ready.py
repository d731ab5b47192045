"""What a process does once is done before a window opens: no run pays for being the first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

WATCHED = """
import json, sys
from kdwatts.telemetry.meter import Meter

open_window, close_window, inside, known = Meter._open, Meter._close, {}, set()

def opened(meter, path, key, **how):
    known.update(sys.modules)
    return open_window(meter, path, key, **how)

def closed(meter, window, error):
    heavy = {"torch", "transformers", "lm_eval", "datasets", "peft", "pandas", "scipy"}
    new = sorted(name for name in set(sys.modules) - known if name.partition(".")[0] in heavy)
    inside.setdefault(window.path, []).extend(new)
    known.update(sys.modules)
    return close_window(meter, window, error)

Meter._open, Meter._close = opened, closed
from kdwatts.cli.command_line import main
out_path = sys.argv.pop(1)
main()
json.dump(inside, open(out_path, "w"))
"""


TASK = "eval.tasks=[{name: 'tiny:word_order', primary_metric: acc, chance: 0.25, limit: 4}]"
LORA = (
    "model=tiny_half",
    "training=lora",
    "training.sequence_length=64",
    "training.micro_batch=16",
)


@pytest.mark.parametrize(
    "overrides",
    [
        ["paradigm=sft", *LORA, "training.accumulation=1", "eval=tiny", "eval.inference=null"],
        pytest.param(["paradigm=sequence", "training=smoke", "eval=tiny"], marks=pytest.mark.slow),
        pytest.param(
            ["paradigm=combined", "paradigm.teacher=cached", "training=smoke", "eval=none"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["lora", "sequence", "cached"],
)
def test_no_library_is_imported_inside_a_window(overrides: list[str], tmp_path: Path):
    few = ["training.target_tokens=4096", "training.heldout_every=0"]
    few += [TASK] if "eval=tiny" in overrides else []
    folders = [f"hydra.run.dir={tmp_path}/run", f"store_dir={tmp_path}/store"]
    command = [sys.executable, "-c", WATCHED, f"{tmp_path}/inside.json", "gpu=cpu"]
    done = subprocess.run(
        [*command, "telemetry.idle_s=0", *overrides, *few, *folders],
        cwd=REPOSITORY,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": f"{tmp_path}/hf"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    inside = json.loads((tmp_path / "inside.json").read_text())
    assert "run/distill/load" in inside
    # A part of torch that is one line long and says which backends there are.
    few_lines = {"torch.backends.xnnpack", "torch.profiler._cupti_monitor"}
    found = {window: set(names) - few_lines for window, names in inside.items()}
    assert {window: names for window, names in found.items() if names} == {}
