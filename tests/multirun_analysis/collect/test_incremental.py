import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import kdwatts.metrics
from kdwatts.records.schema import SCHEMA, TelemetryRow
from multirun_analysis.collect import collection_index, incremental, tick_blocks
from multirun_analysis.collect.collection import collect, table_paths
from tests.bench.many_runs import write_runs

TABLES = ("runs", "stages", "train", "scores", "inference")


def assert_same(found, expected):
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name))
    assert found.telemetry.runs == expected.telemetry.runs
    for run in expected.telemetry.runs:
        pd.testing.assert_frame_equal(found.telemetry.of(run), expected.telemetry.of(run))


def age(directory):
    """Makes every file old enough to be trusted."""
    for path in directory.rglob("*"):
        os.utime(path, (1e9, 1e9))


@pytest.fixture
def runs_dir(tmp_path):
    write_runs(tmp_path / "runs", num_runs=6, rows_per_run=300)
    age(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def read_again(monkeypatch):
    """The names of the runs that each collection reads, one list after another."""
    read: list[list[str]] = []
    genuine = incremental.read_runs

    def noted(jobs, **options):
        read.append([job.run for job in jobs])
        return genuine(jobs, **options)

    monkeypatch.setattr(incremental, "read_runs", noted)
    return read


def test_an_unchanged_folder_is_read_from_what_the_first_collection_wrote(
    runs_dir, tmp_path, read_again
):
    out_dir = tmp_path / "out"
    first = collect([runs_dir], out_dir)
    written = {path: path.stat().st_mtime_ns for path in out_dir.rglob("*") if path.is_file()}
    second = collect([runs_dir], out_dir)
    assert [len(jobs) for jobs in read_again] == [6]
    assert_same(second, first)
    assert_same(second, collect([runs_dir]))
    for path, changed_ns in written.items():
        assert path.name == ".collected.lock" or path.stat().st_mtime_ns == changed_ns


def test_a_run_that_changed_is_read_again_and_alone(runs_dir, tmp_path, read_again):
    out_dir = tmp_path / "out"
    collect([runs_dir], out_dir)
    with (runs_dir / "2-sft-tiny" / "train.jsonl").open("a") as file:
        file.write(f'{{"schema": {SCHEMA}, "step": 401, "tokens": 9, "loss": 1.25}}\n')
    found = collect([runs_dir], out_dir)
    assert read_again[1:] == [["2-sft-tiny"]]
    train = found.train[found.train["run"] == "2-sft-tiny"]
    assert train["loss"].iloc[-1] == 1.25
    assert_same(found, collect([runs_dir]))


def test_a_run_that_is_new_or_gone_moves_the_others_and_reads_none_of_them(
    runs_dir, tmp_path, read_again
):
    out_dir = tmp_path / "out"
    collect([runs_dir], out_dir)
    shutil.move(runs_dir / "0-sft-tiny", tmp_path / "aside")
    assert_same(collect([runs_dir], out_dir), collect([runs_dir]))
    shutil.move(tmp_path / "aside", runs_dir / "0-sft-tiny")
    age(runs_dir)
    found = collect([runs_dir], out_dir)
    assert [jobs for jobs in read_again if len(jobs) < 5] == [[], ["0-sft-tiny"]]
    assert_same(found, collect([runs_dir]))
    parts = sorted(path.name for path in (out_dir / "telemetry.parquet").iterdir())
    assert [name.partition("-")[0] for name in parts] == [f"{i:06d}" for i in range(6)]
    assert parts[5] == "000005-5-response-tiny.parquet"


def test_tables_of_other_code_are_not_trusted(runs_dir, tmp_path, read_again, monkeypatch):
    collect([runs_dir], tmp_path / "out")
    monkeypatch.setattr(collection_index, "code_version", lambda: "other")
    collect([runs_dir], tmp_path / "out")
    assert [len(jobs) for jobs in read_again] == [6, 6]


def test_every_file_of_the_formulas_is_part_of_the_code_that_tables_are_trusted_by(
    tmp_path, monkeypatch
):
    room = tmp_path / "metrics"
    shutil.copytree(Path(str(kdwatts.metrics.__file__)).parent, room)
    monkeypatch.setattr(kdwatts.metrics, "__file__", str(room / "__init__.py"))
    before = collection_index.code_version.__wrapped__()
    (room / "accuracy_kept.py").write_text("# Another formula.")
    assert collection_index.code_version.__wrapped__() != before


@pytest.mark.parametrize("name", ["stages.parquet", "runs.csv", ".collected.json"])
@pytest.mark.parametrize("content", [b"", b'{"code": "x', None])
def test_tables_that_are_torn_or_gone_are_rebuilt(runs_dir, tmp_path, name, content):
    out_dir = tmp_path / "out"
    collect([runs_dir], out_dir)
    whole = (out_dir / "stages.parquet").read_bytes()
    (out_dir / name).unlink()
    if content is not None:
        (out_dir / name).write_bytes(content)
    assert_same(collect([runs_dir], out_dir), collect([runs_dir]))
    assert (out_dir / "stages.parquet").read_bytes() == whole
    assert all(path.exists() for path in table_paths(out_dir))


def test_a_damaged_part_is_read_from_its_run_alone(runs_dir, tmp_path, read_again):
    out_dir = tmp_path / "out"
    collected = collect([runs_dir], out_dir)
    part = out_dir / "telemetry.parquet" / "000003-3-sft-tiny.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    assert len(collected.telemetry.of("3-sft-tiny")) == 300
    assert_same(collect([runs_dir], out_dir), collect([runs_dir]))
    assert read_again[1] == ["3-sft-tiny"]
    assert pq.ParquetFile(part).metadata.num_rows == 300


def test_a_run_that_changed_a_moment_ago_is_read_again(runs_dir, tmp_path, read_again, monkeypatch):
    # Its next change may fall into the same tick of the file system's clock. Here it stays young,
    # however long a busy machine takes to collect it.
    monkeypatch.setattr(collection_index, "YOUNG_S", 3600.0)
    (runs_dir / "1-sft-tiny" / "status.json").touch()
    for _ in range(2):
        collect([runs_dir], tmp_path / "out")
    assert read_again[1:] == [["1-sft-tiny"]]


def test_a_refused_collection_leaves_what_was_there(runs_dir, tmp_path):
    out_dir = tmp_path / "out"
    before = collect([runs_dir], out_dir)
    eval_path = runs_dir / "4-sft-tiny" / "eval.json"
    genuine = eval_path.read_text()
    eval_path.write_text('[{"schema": 99}]')
    (runs_dir / "3-sft-tiny" / "train.jsonl").touch()
    with pytest.raises(ValueError, match=f"{eval_path}: schema is 99"):
        collect([runs_dir], out_dir)
    assert len(pd.read_parquet(out_dir / "telemetry.parquet")) == 6 * 300
    eval_path.write_text(genuine)
    assert_same(collect([runs_dir], out_dir), before)


def test_what_a_killed_collection_left_behind_is_cleared_away(runs_dir, tmp_path):
    parts_dir = tmp_path / "out" / "telemetry.parquet"
    parts_dir.mkdir(parents=True)
    left = [
        parts_dir / ".new-000002",
        parts_dir / ".to-000001-x",
        parts_dir / "000009-gone.parquet",
    ]
    left.append(tmp_path / "out" / ".stages.parquet.123.tmp")
    for path in left:
        path.write_bytes(b"PAR1")
    collect([runs_dir], tmp_path / "out")
    assert not any(path.exists() for path in left)
    assert len(pd.read_parquet(parts_dir)) == 6 * 300


def test_several_processes_collect_what_one_does_in_the_same_order(runs_dir, tmp_path):
    alone = collect([runs_dir], tmp_path / "alone", num_workers=1)
    together = collect([runs_dir], tmp_path / "together", num_workers=2)
    assert_same(together, alone)
    for path in (tmp_path / "alone").rglob("*.parquet"):
        if path.is_file():
            other = tmp_path / "together" / path.relative_to(tmp_path / "alone")
            assert other.read_bytes() == path.read_bytes()


def test_a_foreign_schema_is_refused_by_name_from_another_process_too(runs_dir, tmp_path):
    path = runs_dir / "3-sft-tiny" / "telemetry.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[200] = lines[200].replace(f'"schema":{SCHEMA}', '"schema":99')
    path.write_text("".join(lines))
    sentences = []
    for workers in (1, 2):
        with pytest.raises(ValueError, match="schema is 99") as caught:
            collect([runs_dir], tmp_path / "out", num_workers=workers)
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]
    assert sentences[0].startswith(f"{path}: schema is 99, but this kdwatts reads 1 to {SCHEMA};")


def _collect_to(runs_dir, out_dir):
    collect([runs_dir], out_dir, num_workers=1)


def test_two_collections_at_once_do_no_harm(runs_dir, tmp_path):
    out_dir = tmp_path / "out"
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_collect_to, args=(runs_dir, out_dir)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert_same(collect([runs_dir], out_dir), collect([runs_dir]))
    assert len(pd.read_parquet(out_dir / "telemetry.parquet")) == 6 * 300


def test_a_script_without_a_guard_is_not_run_again_in_each_process(runs_dir, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from multirun_analysis.collect.collection import collect\n"
        "found = collect([Path(sys.argv[1])], num_workers=2)\nprint(len(found.runs))\n"
    )
    command = [sys.executable, str(script), str(runs_dir)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert (done.stdout, done.stderr) == ("6\n", "")


def test_telemetry_reads_as_one_table_sorted_by_run_and_time_with_typed_columns(runs_dir, tmp_path):
    for number in (10, 9, 8, 7, 6):
        shutil.copytree(runs_dir / "0-sft-tiny", runs_dir / f"{number}-copy")
    path = runs_dir / "2-sft-tiny" / "telemetry.jsonl"
    # A second attempt on a host that has just started, and rows out of order.
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    with path.open("a") as file:
        file.write(json.dumps(rows[0] | {"attempt": 2, "monotonic_s": 1.0}) + "\n")
    collected = collect([runs_dir], tmp_path / "out")
    for table in (
        pd.read_parquet(tmp_path / "out" / "telemetry.parquet"),
        pq.read_table(tmp_path / "out" / "telemetry.parquet").to_pandas(),
    ):
        assert list(dict.fromkeys(table["run"])) == list(collected.runs["run"])
        for _, part in table.groupby("run"):
            order = list(zip(part["attempt"], part["monotonic_s"], strict=True))
            assert order == sorted(order)
        dtypes = {name: str(dtype) for name, dtype in table.dtypes.items()}
        assert {"schema"} | set(dtypes) == {"run", "node"} | set(TelemetryRow.__dataclass_fields__)
        assert (dtypes["power_average_w"], dtypes["attempt"]) == ("float64", "Int64")
        assert (dtypes["device_index"], dtypes["window"]) == ("Int64", "str")
        pd.testing.assert_frame_equal(
            table[table["run"] == "1-sft-tiny"].reset_index(drop=True),
            collected.telemetry.of("1-sft-tiny"),
        )


def test_rows_that_go_back_across_blocks_are_sorted_all_the_same(tmp_path, make, monkeypatch):
    monkeypatch.setattr(tick_blocks, "BLOCK_BYTES", 1000)
    folder = make.run(tmp_path / "runs" / "0")
    rows = [TelemetryRow("", float(-s), 1, "run", "gpu", 0, power_w=float(s)) for s in range(20)]
    make.append(folder / "telemetry.jsonl", rows)
    collected = collect([tmp_path / "runs"], tmp_path / "out")
    assert list(collected.telemetry.of("0")["power_w"]) == [float(s) for s in range(19, -1, -1)]


def test_a_running_run_is_collected_as_far_as_it_is(runs_dir, tmp_path):
    path = runs_dir / "1-sft-tiny" / "telemetry.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:5000])
    whole = content[:5000].count(b"\n")
    assert len(collect([runs_dir], tmp_path / "out").telemetry.of("1-sft-tiny")) == whole
    path.write_bytes(content)
    found = collect([runs_dir], tmp_path / "out")
    assert len(found.telemetry.of("1-sft-tiny")) == 300
    row = found.runs.set_index("run").loc["1-sft-tiny"]
    assert pd.isna(row["notes"])
