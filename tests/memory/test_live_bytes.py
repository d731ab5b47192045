"""The memory that a plan names, against the tensors that training really had at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.bench.plan_memory import measure

TINY = (
    "model=tiny", "gpu=cpu", "until=distill", "eval=none", "training.heldout_every=0",
    "training.target_tokens=4096",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that the corpus is prepared once."""
    return tmp_path_factory.mktemp("store")


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("paradigm", "change"),
    [
        ("sft", "training.gradient_checkpointing=true"),
        ("response", "training.gradient_checkpointing=false"),
        ("feature", "training.gradient_checkpointing=false"),
    ],
)
def test_training_takes_what_the_plan_names_within_fifteen_per_cent(
    paradigm: str, change: str, precision: str, store: Path
):
    others = torch.zeros(1 << 20)  # 4 MiB that are none of the training's, as in a whole suite
    asked = [*TINY, f"paradigm={paradigm}", change, f"training.precision={precision}"]
    planned_gib, live_gib = measure(asked, store)
    assert planned_gib == pytest.approx(live_gib, rel=0.15)
    del others
