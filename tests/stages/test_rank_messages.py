"""What ranks tell each other is JSON, and the same value again on the other side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdwatts.stages.rank_messages import Call, Ended, Measure, Prepare, from_values, to_values

CONF = Path(__file__).parents[2] / "conf"
SHIPPED = [
    f"{group}={path.stem}"
    for group in ("paradigm", "model", "eval", "training")
    for path in sorted((CONF / group).glob("*.yaml"))
]


LARGE = ("model=llama31_8b_to_1b", "data=tulu3")
BESIDE = {
    "model=tiny_teacher": ("paradigm=sft",),
    "training": LARGE,
    "eval": LARGE,
}
"""What stands beside an option, or the options of a group, that fit no tiny pair."""


def sent(message: Any) -> Any:
    return from_values(json.loads(json.dumps(to_values(message), allow_nan=False)))


@pytest.mark.parametrize("option", SHIPPED)
def test_the_settings_arrive_as_they_were_sent(option: str, configure: Callable[..., Any]):
    group = option.partition("=")[0]
    config = configure("gpu=h100", *BESIDE.get(option, BESIDE.get(group, ())), option)
    arrived = sent(Prepare(config, ["shards", "distill"]))
    assert arrived == Prepare(config, ["shards", "distill"])
    assert arrived.config.training.compile_why == config.training.compile_why


def test_calls_measures_and_ends_arrive_as_they_were_sent(configure: Callable[..., Any]):
    config, folder = configure("gpu=cpu"), Path("/store/distill")
    inputs = {"shards": folder / "a", "teacher": folder / "b"}
    for message in (
        Call("distill", config, inputs, folder, folder, folder, 3),
        Measure(config, folder, 2),
        Ended("preempted"),
    ):
        assert sent(message) == message
