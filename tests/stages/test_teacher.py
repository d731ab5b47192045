"""The teacher's signals as an artifact: resumed part by part, written by ranks, same as live."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from kdwatts.artifacts.artifact import record_energy
from kdwatts.records.files import read_json, read_jsonl
from kdwatts.runtime.interrupt import Preempted
from kdwatts.stages import teacher
from kdwatts.teacher import cache_parts
from kdwatts.teacher.cache import SignalCache
from tests import whole_runs
from tests.whole_runs import artifact_of

SMALL = (
    "training=smoke",
    "gpu=cpu",
    "eval=none",
    "until=teacher",
    "paradigm=response",
    "data.num_documents=12",
    "training.target_tokens=4000",
    "training.micro_batch=8",
    "training.accumulation=2",
)


def run(run_dir: Path, store: Path, *overrides: str) -> None:
    whole_runs.run(run_dir, f"store_dir={store}", *overrides)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen rows a part, eight a forward pass: four parts and more."""
    monkeypatch.setattr(cache_parts, "PART_POSITIONS", 16 * 64)
    monkeypatch.setattr(cache_parts, "ROWS_PER_FORWARD", 8)


def test_a_stopped_build_goes_on_from_its_finished_parts_and_every_joule_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_parts: None
):
    asked: list[int] = []
    compute = teacher.compute_signals

    def stops_in_the_third_part(*inputs: Any, **options: Any) -> Any:
        asked.extend(options["rows"].tolist())
        if len(asked) == 40:
            raise Preempted("stopped in the third part")
        return compute(*inputs, **options)

    with monkeypatch.context() as patch:
        patch.setattr(teacher, "compute_signals", stops_in_the_third_part)
        with pytest.raises(Preempted):
            run(tmp_path / "run", tmp_path / "store", *SMALL)
    first, asked[:] = asked.copy(), []
    monkeypatch.setattr(teacher, "compute_signals", stops_in_the_third_part)
    run(tmp_path / "run", tmp_path / "store", *SMALL)
    assert first[:32] + asked == sorted(set(first + asked))
    assert asked[0] == first[32]

    made = artifact_of(tmp_path / "store", "teacher", *SMALL)
    record = read_json(made / "artifact.json")
    rows = [row for row in read_jsonl(tmp_path / "run" / "stages.jsonl")]
    spent = [row["energy_j"]["cpu"] for row in rows if row["window"] == "run/teacher"]
    assert len(record["attempts"]) == len(spent) == 2 and min(spent) > 0
    assert record_energy(record).value == pytest.approx(sum(spent))
    cache = SignalCache(made, verify=True)
    assert len(cache.index["parts"]) >= 4 and set(cache.index["sources"]) == {
        "teacher",
        "tokenizer",
        "data",
    }
    assert not list((tmp_path / "store" / "teacher").glob("*.scratch"))


# The compiler of torch 2.13 imports parts of torch that it has itself deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_teacher_compiles_once_although_its_last_rows_are_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_parts: None
):
    run(tmp_path / "plain", tmp_path / "store", *SMALL)
    expected = SignalCache(artifact_of(tmp_path / "store", "teacher", *SMALL), verify=True)
    torch._dynamo.reset()
    counter, asked = CompileCounter(), []
    compute = teacher.compute_signals

    def noted(*inputs: Any, **options: Any) -> Any:
        asked.append(options["rows"])
        return compute(*inputs, **options)

    monkeypatch.setattr(teacher, "compute_signals", noted)
    # A part of sixteen rows: the last pass has one.
    for module in (cache_parts, teacher):
        monkeypatch.setattr(module, "ROWS_PER_FORWARD", 5)
    monkeypatch.setattr(
        teacher,
        "compile_body",
        lambda model: model.get_submodule("model").compile(backend=counter),
    )
    compiled = (*SMALL, "training.compile=true")
    run(tmp_path / "run", tmp_path / "store", *compiled)
    found = SignalCache(artifact_of(tmp_path / "store", "teacher", *compiled), verify=True)
    assert counter.frame_count == 1
    assert {len(rows) for rows in asked} == {5}
    windows = [row["window"] for row in read_jsonl(tmp_path / "run" / "stages.jsonl")]
    assert "run/teacher/compile" in windows
    rows = np.unique(asked)
    mine, theirs = (cache.read(rows).sparse for cache in (found, expected))
    assert mine and theirs
    assert len(mine.ids_NK) == 64 * 64
    assert torch.equal(mine.ids_NK, theirs.ids_NK)
    torch._dynamo.reset()


SCRIPT = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from test_teacher import SMALL
from tests.whole_runs import config_of
from kdwatts.runtime.ranks import launched
from kdwatts.stages import teacher
from kdwatts.stages.work import Work
from kdwatts.artifacts.store import Store
from kdwatts.teacher import cache_parts as parts
from kdwatts.telemetry.meter import Meter
parts.PART_POSITIONS, parts.ROWS_PER_FORWARD = 16 * 64, 8
torch.set_num_threads(1)
config = config_of("store_dir=" + {store!r}, *SMALL)
run_dir = Path({folder!r}) / f"rank{{launched().rank}}"
run_dir.mkdir()
made = []
def work_of(out_dir, scratch_dir, meter, window):
    inputs = {{"shards": Path({shards!r})}}
    return Work(config=config, inputs=inputs, out_dir=out_dir, scratch_dir=scratch_dir,
                run_dir=run_dir, attempt=1, meter=meter, window=window,
                device=torch.device("cpu"))
class Noted(parts.PartWriter):
    def __init__(self, parts_dir, number, *others):
        print("part", number, flush=True)
        super().__init__(parts_dir, number, *others)
parts.PartWriter = Noted
store = Store(Path({folder!r}) / "shared")
with Meter(run_dir, config.telemetry, attempt=1, use_gpus=False) as meter:
    with meter.window("teacher") as window:
        if launched().leads:
            with store.claim("teacher", "key") as claim:
                teacher.build(work_of(claim.work_dir, claim.scratch_dir, meter, window))
                claim.commit()
        else:
            target = store.artifact_dir("teacher", "key")
            scratch_dir = target.with_name("key.scratch")
            teacher.assist(work_of(target, scratch_dir, meter, window), target)
"""


def test_two_ranks_write_one_cache_that_is_the_one_of_a_single_process(
    tmp_path: Path, small_parts: None
):
    store = tmp_path / "store"
    run(tmp_path / "run", store, *SMALL)
    alone = SignalCache(artifact_of(store, "teacher", *SMALL))
    script = SCRIPT.format(
        tests=str(Path(__file__).parent),
        store=str(store),
        folder=str(tmp_path),
        shards=str(artifact_of(store, "shards", *SMALL)),
    )
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"},
        )
        for rank in "01"
    ]
    printed = [process.communicate(timeout=300)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    first, second = ({line for line in text.splitlines() if "part" in line} for text in printed)
    number = len(alone.index["parts"])
    assert first | second == {f"part {part}" for part in range(number)}
    assert "part 0" in first

    together = SignalCache(tmp_path / "shared" / "teacher" / "key", verify=True)
    rows = np.load(alone.directory / cache_parts.ROWS_NAME)
    found, expected = together.read(rows).sparse, alone.read(rows).sparse
    assert found and expected
    assert torch.equal(found.ids_NK, expected.ids_NK)
    assert torch.equal(found.log_p_NK, expected.log_p_NK)
    assert together.index["sources"] == alone.index["sources"]


@pytest.mark.parametrize(
    ("paradigm", "tolerance"),
    [
        ("paradigm=response", 1e-3),
        ("paradigm=response paradigm.response.cache_precision=f16", 1e-4),
        ("paradigm=response paradigm.response.support=sampled", 1e-6),
        ("paradigm=response paradigm.response.support=dense", 1e-3),
        ("paradigm=feature", 1e-3),
        ("paradigm=feature paradigm.feature.positions=8", 1e-3),
        ("paradigm=relational", 1e-5),
        ("paradigm=relational_token", 1e-3),
    ],
)
def test_a_cached_teacher_gives_the_loss_of_an_online_one(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, paradigm: str, tolerance: float
):
    """One step on the same rows with the same student, whatever the terms."""
    store = tmp_path_factory.getbasetemp() / "same_loss"
    losses = []
    for source in ("cached", "online"):
        overrides = [*SMALL, *paradigm.split(), "until=distill", f"paradigm.teacher={source}"]
        run(tmp_path / source, store, *overrides, "training.log_every=1")
        lines = (tmp_path / source / "train.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0][0] == pytest.approx(losses[1][0], rel=tolerance)
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
