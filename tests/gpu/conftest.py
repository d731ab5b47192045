"""Leaves a line for each test as soon as it ends, where KDWATTS_GPU_TESTS names a file.

A test that hangs is ended from outside. What came before it is then known.
"""

from __future__ import annotations

import json
import os

import pytest


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    path = os.environ.get("KDWATTS_GPU_TESTS")
    if path and (report.when == "call" or report.outcome != "passed"):
        row = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            row["message"] = crash.message[:500] if crash else ""
            row["error"] = report.longreprtext[-1500:]
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
