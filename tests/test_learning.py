"""The tiny world teaches: with equal tokens a distilled student beats one that had no teacher."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

from kdwatts.artifacts.hardware import resolve_gpu
from kdwatts.cli.attempt import run_in
from kdwatts.cli.preflight import compose

SEEDS = (0, 1, 2)


def held_out_bits_per_byte(run_dir: Path, store: Path, *overrides: str) -> float:
    run_dir.mkdir(parents=True)
    settings = ["gpu=cpu", "until=evaluate", f"store_dir={store}", *overrides]
    tree = resolve_gpu(compose(settings), [])
    tree.eval.tasks = [task for task in tree.eval.tasks if task.name == "tiny:held_out"]
    run_in(run_dir, tree)
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["train_tokens"] == 301056
    return metrics["student_bits_per_byte"]


@pytest.mark.slow
def test_response_and_feature_students_read_held_out_text_better_than_sft_for_every_seed(
    tmp_path: Path,
):
    """Perplexity and bits per byte of the same text order models alike."""
    bits = {
        paradigm: [
            held_out_bits_per_byte(
                tmp_path / f"{paradigm}-{seed}",
                tmp_path / "store",
                f"paradigm={paradigm}",
                f"training.seed={seed}",
            )
            for seed in SEEDS
        ]
        for paradigm in ("sft", "response", "feature")
    }
    for paradigm in ("response", "feature"):
        assert all(mine < sft for mine, sft in zip(bits[paradigm], bits["sft"], strict=True)), bits
        assert fmean(bits[paradigm]) < fmean(bits["sft"]) - 0.05, bits
