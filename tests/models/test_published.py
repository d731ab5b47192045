"""What the pairs say of published models is what the models' own files say."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdwatts.config.pair import ModelSource
from kdwatts.models.load import read_architecture
from kdwatts.runtime.paths import conf_dir
from tests.models.published import PUBLISHED

PAIRS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


@pytest.fixture(scope="module")
def sources(configure: Callable[..., Any]) -> dict[str, list[ModelSource]]:
    """Models by path, as every pair that reads them states them."""
    stated: dict[str, list[ModelSource]] = {}
    for name in PAIRS:
        pair = configure("gpu=cpu", f"model={name}", "paradigm=sft").model
        for source in (pair.student, pair.teacher):
            if source and source.path and not source.path.startswith("tiny:"):
                stated.setdefault(source.path, []).append(source)
    return stated


def test_every_published_model_that_a_pair_reads_is_looked_at(
    sources: dict[str, list[ModelSource]],
):
    assert sources.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("path", PUBLISHED)
def test_a_pair_states_what_the_published_file_says(
    path: str, sources: dict[str, list[ModelSource]], tmp_path: Path
):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[path]))
    for source in sources[path]:
        here = replace(source, path=str(tmp_path), revision=None)
        read_architecture(here)
        shape = here.architecture
        for wrong in (
            replace(shape, norm_epsilon=2e-6),
            replace(shape, rope_theta=1.0),
            replace(shape, vocab_size=shape.vocab_size + 1),
            replace(shape, tied_head=not shape.tied_head),
            replace(shape, head_dim=shape.head_dim * 2),
        ):
            with pytest.raises(ValueError, match="the pair's file says"):
                read_architecture(replace(here, architecture=wrong))
