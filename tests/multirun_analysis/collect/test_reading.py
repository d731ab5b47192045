import json
from dataclasses import asdict, fields

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import json as arrow_json

from kdwatts.records.schema import SCHEMA, TelemetryRow
from kdwatts.records.traces import TRACE_NAME
from multirun_analysis.collect import json_lines, tick_blocks
from multirun_analysis.collect.collection import collect
from multirun_analysis.collect.columns import INFERENCE, STAGES, concatenated, to_table
from tests.bench.many_runs import write_runs

COLUMNS = pa.schema(
    {"schema": pa.int64(), "window": pa.string(), "attempt": pa.int64(), "power_w": pa.float64()}
)
TICKS = arrow_json.ParseOptions(explicit_schema=COLUMNS, unexpected_field_behavior="ignore")
TICK = asdict(TelemetryRow("2025-11-14T01:21:00Z", 1.0, 1, "run", "gpu", 0, power_w=250.0))


def write(path, *records):
    path.write_bytes(b"".join(r if isinstance(r, bytes) else line(r) for r in records))
    return path


def line(record):
    return json.dumps(record).encode() + b"\n"


@pytest.fixture
def by_line(monkeypatch):
    """Turns the fast reader off when called."""
    return lambda: monkeypatch.setattr(json_lines, "fast_table", lambda block, options: None)


def test_the_fast_reader_and_the_one_by_line_read_the_same(tmp_path, by_line):
    write_runs(tmp_path / "runs", num_runs=15, rows_per_run=200)
    fast = collect([tmp_path / "runs"], tmp_path / "fast")
    by_line()
    slow = collect([tmp_path / "runs"], tmp_path / "slow")
    for name in ("runs", "stages", "train", "scores", "inference"):
        pd.testing.assert_frame_equal(getattr(fast, name), getattr(slow, name))
    assert len(fast.telemetry.runs) == 15
    for run in fast.telemetry.runs:
        pd.testing.assert_frame_equal(fast.telemetry.of(run), slow.telemetry.of(run))
    # Run 13 has a torn last line.
    notes = fast.runs.set_index("run")["notes"]
    assert notes["13-feature-tiny"] == "telemetry.jsonl: torn last line passed over"
    assert notes["12-feature-tiny"] != notes["12-feature-tiny"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'{"schema": 1}\n\n', id="blank line"),
        pytest.param(b'{"schema": 1}{"schema": 1}\n', id="two records on a line"),
        pytest.param(b"null\n", id="null"),
        pytest.param(b"[1]\n", id="list"),
        pytest.param(b'{"schema": 1, "window": "\xff"}\n', id="no UTF-8"),
        pytest.param(b'{"schema": 1, "attempt": 1.5}\n', id="half an attempt"),
        pytest.param(b'{"schema": 1, "power_w": true}\n', id="true for a number"),
        pytest.param(b'{"schema": 1, "window": 3}\n', id="number for a text"),
        pytest.param(b'{"window": "run"}\n', id="no schema"),
        pytest.param(b'{"schema": 2}\n', id="newer schema"),
        pytest.param(b'{"schema": 0}\n', id="schema 0"),
        pytest.param(b'{"schema": 1,\n', id="torn"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_no_record_a_line_is_left_to_the_reader_by_line(content):
    assert json_lines.fast_table(content, TICKS) is None


def test_a_key_of_a_later_writer_does_not_stop_the_fast_reader():
    table = json_lines.fast_table(line(TICK | {"humidity_pct": 40}), TICKS)
    assert table is not None and table.num_rows == 1


@pytest.mark.parametrize(
    ("broken", "note"),
    [
        (b"{broken}\n", "telemetry.jsonl:4: not JSON"),
        (b"\n", "telemetry.jsonl:4: not JSON"),
        (b"null\n", "telemetry.jsonl:4: holds NoneType, not a record"),
    ],
)
def test_a_broken_line_is_named_and_the_rows_before_it_count(make, tmp_path, broken, note):
    folder = make.run(tmp_path / "runs" / "0")
    write(folder / TRACE_NAME, TICK, TICK, TICK, broken, TICK)
    collected = collect([tmp_path / "runs"], tmp_path / "out")
    assert collected.runs["notes"].iloc[0].startswith(note)
    assert len(collected.telemetry.of("0")) == 3


def test_a_broken_line_of_a_later_block_has_its_number_in_the_file(make, tmp_path, monkeypatch):
    monkeypatch.setattr(tick_blocks, "BLOCK_BYTES", 2000)
    folder = make.run(tmp_path / "runs" / "0")
    write(folder / TRACE_NAME, *[TICK] * 40, b"{broken}\n")
    collected = collect([tmp_path / "runs"], tmp_path / "out")
    assert collected.runs["notes"].iloc[0].startswith("telemetry.jsonl:41: not JSON")
    assert len(collected.telemetry.of("0")) == 40


@pytest.mark.parametrize("bad", [{"attempt": 1.5}, {"power_w": "much"}, {"window": 3}])
def test_a_tick_that_is_not_as_agreed_leaves_its_file_out_and_says_so(make, tmp_path, bad):
    folder = make.run(tmp_path / "runs" / "0")
    write(folder / TRACE_NAME, TICK, TICK | bad)
    collected = collect([tmp_path / "runs"], tmp_path / "out")
    assert "telemetry.jsonl: a record is not as agreed" in collected.runs["notes"].iloc[0]
    assert collected.telemetry.runs == ()
    assert collected.telemetry.of("0").empty
    assert not list((tmp_path / "out" / "telemetry.parquet").iterdir())


@pytest.mark.parametrize("schema", [SCHEMA + 1, "2", None])
@pytest.mark.parametrize("keep", [True, False])
def test_versions_mixed_in_one_file_are_refused(make, tmp_path, schema, keep):
    folder = make.run(tmp_path / "runs" / "0")
    path = write(folder / TRACE_NAME, TICK, TICK, TICK | {"schema": schema})
    with pytest.raises(ValueError, match=rf"{path}: schema is {schema!r}"):
        collect([tmp_path / "runs"], tmp_path / "out" if keep else None)


def test_a_training_log_keeps_numbers_and_the_split(make, tmp_path):
    folder = make.run(tmp_path / "0")
    row = {"schema": SCHEMA, "step": 1, "loss": 2, "split": "train", "fine": True, "note": "x"}
    write(folder / "train.jsonl", row, row | {"loss": 2.5, "kl": 1.0})
    train = collect([tmp_path]).train
    assert set(train) == {"run", "step", "loss", "split", "kl"}
    assert list(train["loss"]) == [2.0, 2.5] and train["kl"].isna().tolist() == [True, False]


def test_serving_costs_have_the_columns_of_their_record(make, tmp_path):
    inference = pytest.importorskip("kdwatts.serving.eager_loop")
    phase = {f.name for f in fields(inference.Phase)}
    cost = {f.name for f in fields(inference.ServingCost)} - {"prefill", "decode"}
    expected = {f"{name}_{key}" for name in ("prefill", "decode") for key in phase} | cost
    assert set(INFERENCE.names) == expected | {"run", "subject", "key", "measurement"}
    spent = inference.Phase(0.5, None, None, "measured", 100, 2.0, 3, 50.0, 0.1, 0.2)
    record = inference.ServingCost(8, 512, 64, spent, spent, 0.4, None, None, "measured")
    (make.run(tmp_path / "0") / "inference.json").write_text(
        json.dumps([{"schema": SCHEMA, "subject": "student", **asdict(record)}])
    )
    found = collect([tmp_path]).inference
    assert found["prefill_j_per_token"].tolist() == [0.5]
    assert found["decode_net_j_per_token"].isna().all()
    assert (str(found["batch_size"].dtype), found["batch_size"].iloc[0]) == ("Int64", 8)


def test_stages_keep_flat_keys_of_a_later_writer(make, tmp_path):
    folder = make.run(tmp_path / "0")
    row = asdict(make.stage("distill")) | {"peak_memory_gib": 3.5, "more": {"a": 1}}
    write(folder / "stages.jsonl", row)
    stages = collect([tmp_path]).stages
    assert list(stages["peak_memory_gib"]) == [3.5] and "more" not in stages


def test_nothing_found_has_typed_columns_all_the_same(make, tmp_path):
    make.run(tmp_path / "0", metrics=None)
    collected = collect([tmp_path])
    assert list(collected.stages) == STAGES.names and collected.stages.empty
    assert str(collected.stages["steps"].dtype) == "Int64"
    assert list(collected.telemetry.of("0")) == tick_blocks.PART_SCHEMA.names


def test_no_value_is_bent_to_fit_its_column():
    schema = pa.schema([("run", pa.string()), ("steps", pa.int64()), ("energy_j", pa.float64())])
    assert to_table("r", [{"steps": 2.0, "energy_j": 1}], schema)["steps"].to_pylist() == [2]
    for bad in ({"steps": 2.5}, {"steps": True}, {"energy_j": False}, {"energy_j": "1"}):
        with pytest.raises((TypeError, ValueError)):
            to_table("r", [bad], schema)


def test_a_column_of_numbers_here_and_text_there_becomes_text():
    schema = pa.schema([("run", pa.string())])
    parts = [to_table("a", [{"x": 1}], schema), to_table("b", [{"x": "one"}, {"y": 2}], schema)]
    found = concatenated(parts, schema)
    assert found["x"].to_pylist() == ["1", "one", None]
    assert found["y"].to_pylist() == [None, None, 2]


def test_counted_joules_below_0_are_refused_by_name_and_net_ones_are_not(make, tmp_path):
    make.run(tmp_path / "0", own_energy_j=-5.0)
    make.run(tmp_path / "1", own_net_energy_j=-5.0, student_key="b")
    runs = collect([tmp_path]).runs.set_index("run")
    assert runs.loc["1", "finished"] and not runs.loc["0", "finished"]
    said = "metrics.json: own_energy_j is -5.0, expected 0 or more; delete it and rerun"
    assert runs.loc["0", "reason"] == said


def test_a_serving_cost_below_0_leaves_its_file_out_and_is_named():
    schema = pa.schema([("run", pa.string()), ("total_j_per_token", pa.float64())])
    with pytest.raises(ValueError, match=r"total_j_per_token is -0.5, expected 0 or more"):
        to_table("r", [{"total_j_per_token": -0.5}], schema)
