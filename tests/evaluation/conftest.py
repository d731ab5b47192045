"""Fixtures of the evaluation's tests: a meter, and folders such as a download leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kdwatts.config.machine import Telemetry
from kdwatts.telemetry.meter import Meter


@pytest.fixture
def meter(tmp_path: Path) -> Iterator[Meter]:
    settings = Telemetry(cpu_estimate="tdp", interval_s=0.1)
    with Meter(tmp_path / "meter", settings, use_gpus=False) as meter:
        yield meter


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., None]:
    """Writes a folder whose README lists configurations, each with a JSONL file a split."""

    def write(directory: Path, rows: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> None:
        lines = ["---", "configs:"]
        for config, splits in rows.items():
            lines += [f"- config_name: {config}", "  data_files:"]
            (directory / config).mkdir(parents=True)
            for split, documents in splits.items():
                path = directory / config / f"{split}.jsonl"
                path.write_text("".join(json.dumps(document) + "\n" for document in documents))
                lines += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
        (directory / "README.md").write_text("\n".join([*lines, "---", ""]))

    return write
