"""A cache that gives other signals than were kept is found, whether or not its checksum knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdwatts.doctor.numbers.cached_signals import (
    LENGTH,
    TaughtPair,
    look_at_cached_signals,
    stated_depth_error,
    tiny_pair,
    verdict_on_cache,
    write_signals,
)
from kdwatts.doctor.patient import Patient
from kdwatts.records.files import read_json, write_json
from kdwatts.runtime.fingerprint import sha256_file
from kdwatts.teacher.cache_parts import INDEX_NAME, part_dir
from kdwatts.teacher.cache_record import STATES_NAME, TOP_K_NAME, Form


@pytest.fixture(scope="module")
def pair() -> TaughtPair:
    return tiny_pair(torch.device("cpu"))


@pytest.fixture
def cache_dir(pair: TaughtPair, tmp_path: Path) -> Path:
    write_signals(pair, tmp_path / "cache")
    return tmp_path / "cache"


def change(pair: TaughtPair, cache_dir: Path, name: str, field: str, by: int) -> None:
    """Change the first number of a field of a part."""
    path = part_dir(cache_dir, 0) / name
    record = Form(pair.plan, LENGTH, pair.width).records[name]
    records = np.memmap(path, dtype=record, mode="r+")
    # Not the likeliest token, whose depth is 0 and ends at 0.
    values = records[field][0].reshape(-1)
    place = int(values.argmax()) if field == "depth" else 0
    values[place] = values[place] - by
    records.flush()


def accept(cache_dir: Path, name: str) -> None:
    """The index takes the part's content as it is now."""
    index = read_json(cache_dir / INDEX_NAME)
    index["parts"][0]["sha256"][name] = sha256_file(part_dir(cache_dir, 0) / name)
    write_json(cache_dir / INDEX_NAME, index)


def test_a_healthy_cache_is_right_and_leaves_no_file(tmp_path: Path, configure: Callable[..., Any]):
    (verdict,) = look_at_cached_signals(Patient(configure("gpu=cpu"), [], False, tmp_path), 1e6)
    assert (verdict.name, verdict.verdict, verdict.unit) == ("cached_signals", "right", "nats")
    assert verdict.value is not None and 0 < verdict.value < 1e-3
    assert "where the stated errors allow" in verdict.found
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_was_flipped_is_refused_by_its_checksum(pair: TaughtPair, cache_dir: Path):
    change(pair, cache_dir, TOP_K_NAME, "depth", 2)
    verdict = verdict_on_cache(pair, cache_dir)
    assert verdict.verdict == "wrong" and verdict.remedy
    assert "top_k.bin has sha256" in verdict.found


@pytest.mark.parametrize(
    ("name", "field", "by", "what"),
    [
        (TOP_K_NAME, "depth", 2, "depths"),
        (TOP_K_NAME, "offset", 2, "offsets"),
        (STATES_NAME, "pooled", 1, "pooled states"),
        (STATES_NAME, "tokens", 2, "states (tokens_BMD)"),
    ],
)
def test_a_value_that_was_written_wrongly_is_found_and_named(
    pair: TaughtPair, cache_dir: Path, name: str, field: str, by: int, what: str
):
    change(pair, cache_dir, name, field, by)
    accept(cache_dir, name)
    verdict = verdict_on_cache(pair, cache_dir)
    assert verdict.verdict == "wrong"
    assert verdict.found.startswith(f"read back beyond their stated error: {what}; ")


def test_the_stated_error_of_a_depth_is_the_one_worked_by_hand():
    """d = 4, R = 9: sqrt(36) / 255 + 9 / 510^2, with R in float16 rounded up by 2^-10 at most."""
    found = stated_depth_error(torch.tensor([[4.0]]), torch.tensor([[9.0]])).item()
    assert found == pytest.approx(6 / 255 + 9 / 510**2, rel=1e-3)
