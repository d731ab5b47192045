"""A terminal of any encoding can be printed to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from multirun_analysis.units import energy

ROOT = Path(__file__).parents[1]
PRINTS = "print('412 \\u00b1 21 kJ', chr(0xdcff))"
MAINS = {
    "multirun_analysis": "from multirun_analysis.__main__ import main\nmain(['status', '.'])",
    "kdwatts": "import sys\nfrom kdwatts.cli import main\nsys.argv[1:] = ['paradigm=']\n"
    "try: main()\nexcept SystemExit: pass",
    "kdwatts.telemetry": "from kdwatts.telemetry.__main__ import main\n"
    "main(['--interval', '-1', '--', 'true'])",
}


def run_in_ascii(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, env=environment, check=False
    )


@pytest.mark.parametrize("name", MAINS)
def test_after_an_entry_point_signs_that_ascii_lacks_are_printed_as_codes(name: str):
    ended = run_in_ascii("-c", f"{MAINS[name]}\n{PRINTS}")
    assert b"Traceback" not in ended.stderr, ended.stderr.decode()
    assert ended.returncode == 0
    assert ended.stdout.endswith(rb"412 \xb1 21 kJ \udcff" + b"\n")


def test_a_meter_s_summary_and_an_import_print_their_errors_in_ascii(tmp_path: Path):
    assert "±" in energy(412e3, error_j=21e3)
    metered = run_in_ascii(
        *("-m", "kdwatts.telemetry", "--out", str(tmp_path / "out"), "--idle", "0"),
        *("--cpu-estimate-tdp", "65", "--", sys.executable, "-c", "sum(range(10**6))"),
    )
    assert metered.returncode == 0 and rb"J \xb1 " in metered.stderr, metered.stderr
    imported = run_in_ascii(
        *("-m", "multirun_analysis", "import", str(ROOT / "tests" / "h100_runs")),
        *("--out", str(tmp_path / "imported")),
    )
    assert imported.returncode == 0, imported.stderr
    assert rb"306 \xb1 15 kJ measured" in imported.stdout
