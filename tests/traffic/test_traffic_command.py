"""`python -m kdwatts.traffic`: what it prints, and that it prints no text."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdwatts.traffic.__main__ import main

SECRET = "my grandmother's illness"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    rows = [
        {"t_s": 1800.0 * number, "prompt": SECRET, "output_tokens": 4, "session": SECRET}
        for number in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_log_is_printed_with_a_line_for_each_hour_and_no_text(
    log: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([str(log)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["requests", "4"] in lines and ["sessions", "1"] in lines
    # 4 requests half an hour apart last two hours.
    assert lines[-2:] == [["1", "3,600", "0.0005556"], ["2", "3,600", "0.0005556"]]
    assert SECRET.split()[1] not in repr(lines)
    assert ["prompt", "tokens", "not", "known", "(the", "log", "has", "text", "alone)"] in lines


def test_json_has_the_fields_of_the_summary(log: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--json", str(log)]) == 0
    said = capsys.readouterr().out
    found = json.loads(said)
    assert (found["num_requests"], found["span_s"], found["rate_per_s"]) == (4, 7200.0, 4 / 7200)
    assert found["hours"] == 2 * [{"duration_s": 3600.0, "rate_per_s": 2 / 3600}]
    assert found["prompt_tokens"] is None and SECRET not in said


def test_a_log_that_cannot_be_read_is_one_sentence_and_exit_code_2(
    log: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([str(log), "--format", "azure"]) == 2
    said = capsys.readouterr().err
    assert "has no column 'TIMESTAMP'; give the log's own format" in said
    assert said.count("\n") == 1 and SECRET not in said


def test_the_command_loads_no_torch_and_needs_no_orjson(log: Path):
    script = (
        "import sys; sys.modules['orjson'] = None; from kdwatts.traffic.__main__ import main; "
        f"main([{str(log)!r}]); assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True, capture_output=True)
