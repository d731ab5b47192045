"""Fixtures: a powercap tree, as the meter's tests have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.telemetry.conftest import PowercapTree


@pytest.fixture
def powercap(tmp_path: Path) -> PowercapTree:
    return PowercapTree(tmp_path / "powercap")
