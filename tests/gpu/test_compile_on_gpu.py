"""A compiled run learns what an uncompiled one learns, and compiles in a window of its own.

Every run is a process of its own, and this one uses no GPU, as it would look like a stranger's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.gpu import DEVICE, ON_GPU
from tests.gpu.test_runs_on_gpu import finish, rows_of

pytestmark = [pytest.mark.gpu, ON_GPU]

FIVE_STEPS = (
    *("until=distill", "training=smoke", "paradigm=combined", "data.num_documents=30"),
    *("eval=none", "training.target_tokens=5120", "training.log_every=1", "telemetry.idle_s=0"),
    *("training.heldout_every=5", "training.heldout_tokens=1024"),
)
"""The teacher runs beside the student, and held-out rows are read."""
TOLERANCE = {"fp32": 1e-3, "bf16": 0.02}
NO_BF16 = pytest.mark.skipif(
    DEVICE.type == "cpu", reason="training.compile=true with bf16 is refused on the CPU"
)


def losses(run_dir: Path) -> dict[tuple[str, int], float]:
    """By what they are read on, and by step."""
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in (run_dir / "train.jsonl").read_text().splitlines()
    ]
    return {(row["split"], row["step"]): row["loss"] for row in rows}


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=NO_BF16)])
def test_every_logged_loss_is_that_of_the_uncompiled_run(precision: str, tmp_path: Path):
    found = {}
    for is_compiled in ("true", "false"):
        run_dir = tmp_path / is_compiled
        chosen = (f"training.compile={is_compiled}", f"training.precision={precision}")
        finish(f"hydra.run.dir={run_dir}", f"store_dir={tmp_path / 'store'}", *FIVE_STEPS, *chosen)
        found[is_compiled] = losses(run_dir)
    assert len(found["false"]) == 6
    assert found["true"] == pytest.approx(found["false"], rel=TOLERANCE[precision])
    windows = rows_of(tmp_path / "true")
    assert any(window.endswith("compile") for window in windows), sorted(windows)
