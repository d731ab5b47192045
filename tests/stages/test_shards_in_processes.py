"""The corpus tokenized by several processes: its bytes, errors and joules are those of one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from kdwatts.data import workers
from kdwatts.evaluation.tasks.mmlu_dev import read_questions
from kdwatts.models.load import load_tokenizer
from kdwatts.records.files import read_json, read_jsonl
from kdwatts.runtime import interrupt
from kdwatts.stages import contamination, shards
from tests import whole_runs
from tests.conftest import CHAT_TEMPLATE


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets so many processes be used, each worth starting for 4,000 characters."""
    monkeypatch.setattr(workers, "CHARACTERS_PER_WORKER", 4000)
    for stage in (shards, contamination):
        monkeypatch.setattr(stage, "BATCH_CHARACTERS", 1500)

    def limit(num_cpus: int) -> None:
        monkeypatch.setattr(workers, "job_cpus", lambda: num_cpus)

    return limit


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """A mix of texts, some of which quote a question of MMLU, and of conversations."""
    quoted = max((question["question"] for question in read_questions()), key=len)
    texts = [f"Text {i} says ☃ so. " * (1 + i % 17) for i in range(300)]
    texts[3::20] = [f"{i}: {quoted}" for i in range(len(texts[3::20]))]
    texts[5::30] = [" "] * len(texts[5::30])
    talks = [[("user", f"Who is {i}?"), ("assistant", f"{i} is. " * 9)] for i in range(120)]
    rows = [
        [{"text": text} for text in texts],
        [{"messages": [{"role": r, "content": c} for r, c in talk]} for talk in talks],
    ]
    for name, of_one in zip(("texts", "talks"), rows, strict=True):
        lines = [json.dumps(row) for row in of_one]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    tokenizer = load_tokenizer("tiny:tokenizer")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    talks_source = f"{{path:{tmp_path}/talks.jsonl,text_field:null,messages_field:messages}}"
    sources = (
        f"[{{source:{{path:{tmp_path}/texts.jsonl}},weight:3,licence:none,max_epochs:2}},"
        f"{{source:{talks_source},weight:1,licence:none,num_documents:100,max_epochs:2}}]"
    )
    return ["until=shards", "gpu=cpu", "eval=mmlu_dev", "data.source=null", "data.name=mix",
            f"data.sources={sources}", "data.shard_tokens=4096", "data.fraction=0.9",
            f"model.tokenizer={tmp_path}/tokenizer"]  # fmt: skip


def build(tmp_path: Path, name: str, asked: list[str], run: str | None = None) -> Path:
    store = f"store_dir={tmp_path}/{name}-store"
    return whole_runs.run(tmp_path / (run or name), *asked, store)


def content(tmp_path: Path, name: str) -> dict[str, bytes]:
    (index,) = (tmp_path / f"{name}-store" / "shards").glob("*/index.json")
    files = [path for path in index.parent.iterdir() if path.name != "artifact.json"]
    return {path.name: path.read_bytes() for path in sorted(files)}


@pytest.mark.parametrize("mode", ["report", "drop"])
def test_any_number_of_processes_gives_the_same_shards_index_and_report(
    mode: str, asked: list[str], use: Callable[[int], None], tmp_path: Path
):
    asked = [*asked, f"data.decontaminate.mode={mode}", "until=contamination"]
    found, reports = [], []
    for num_cpus in (1, 3):
        use(num_cpus)
        run_dir = build(tmp_path, f"by-{num_cpus}", asked)
        found.append(content(tmp_path, f"by-{num_cpus}"))
        reports.append(read_json(run_dir / "contamination.json"))
    assert found[0] == found[1] and reports[0] == reports[1]
    assert reports[0]["num_documents_hit"] > 5
    index = json.loads(found[0]["index.json"])
    assert len(index["shards"]) > 3
    texts, talks = index["parts"]
    assert texts["num_dropped"]["empty"] > 0 and talks["num_dropped"]["not_drawn"] > 0


def test_a_build_stopped_among_several_processes_goes_on_with_one_to_the_same_bytes(
    asked: list[str], use: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = [*asked, "data.decontaminate.mode=drop"]
    use(1)
    build(tmp_path, "whole", asked)

    def stop(saved: str) -> None:
        if saved == "2 shards are written":
            raise interrupt.Preempted(saved)

    use(2)
    before = set(psutil.Process().children())
    with monkeypatch.context() as patch:
        patch.setattr(shards.interrupt, "stop_if_requested", stop)
        with pytest.raises(interrupt.Preempted):
            build(tmp_path, "parts", asked)
    assert set(psutil.Process().children()) <= before
    use(1)
    build(tmp_path, "parts", asked, run="again")
    assert content(tmp_path, "parts") == content(tmp_path, "whole")


def failing(tmp_path: Path, kind: str) -> tuple[list[str], str]:
    """A corpus of 300 rows whose row 250 cannot be used, and the sentence that says so."""
    rows: list[dict[str, Any]] = [{"text": f"Text {i} is long. " * 9} for i in range(300)]
    source = f"data.source.path={tmp_path}/a.jsonl"
    if kind == "not text":
        rows[249] = {"text": 7}
        said = "a.jsonl:250: field 'text' holds 7, which is not text; name another field"
    else:
        turns = [{"role": "user", "content": "Who? " * 9}, {"role": "assistant", "content": "I."}]
        rows = [{"messages": turns} for _ in rows]
        rows[249] = {"messages": turns[::-1]}
        said = "a.jsonl:250: the tokenizer's chat template refuses this conversation (no question)"
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = load_tokenizer("tiny:tokenizer")
    check = "{% if messages[0].role != 'user' %}{{ raise_exception('no question') }}{% endif %}"
    tokenizer.chat_template = check + CHAT_TEMPLATE
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    asked = ["until=shards", "gpu=cpu", source, f"model.tokenizer={tmp_path}/tokenizer",
             "data.shard_tokens=1024"]  # fmt: skip
    if kind == "refused":
        asked += ["data.source.text_field=null", "data.source.messages_field=messages"]
    return asked, said


@pytest.mark.parametrize("kind", ["not text", "refused"])
def test_a_bad_row_is_named_alike_by_one_process_and_by_several_after_all_shards_before_it(
    kind: str, use: Callable[[int], None], tmp_path: Path
):
    asked, said = failing(tmp_path, kind)
    kept, sentences = [], []
    for num_cpus in (1, 2):
        use(num_cpus)
        with pytest.raises(ValueError) as raised:
            build(tmp_path, f"by-{num_cpus}", asked)
        sentences.append(str(raised.value))
        kept.append(len(list((tmp_path / f"by-{num_cpus}-store").glob("shards/*/shards/shard-*"))))
    assert sentences[0] == sentences[1] and said in sentences[0]
    assert kept[0] == kept[1] > 3


def test_a_bad_row_behind_a_mix_s_end_is_read_ahead_and_raises_nothing(
    use: Callable[[int], None], tmp_path: Path
):
    for name, count in (("a", 10), ("b", 40)):
        lines = [json.dumps({"text": f"{name} {i} " * 9}) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text(
            "\n".join([*lines, "no JSON"] if name == "b" else lines)
        )
    part = "{source:{path:%s},weight:1,licence:none}"
    sources = ",".join(part % (tmp_path / f"{name}.jsonl") for name in ("a", "b"))
    for num_cpus in (1, 2):
        use(num_cpus)
        asked = ["until=shards", "gpu=cpu", "data.source=null", f"data.sources=[{sources}]"]
        build(tmp_path, f"by-{num_cpus}", asked)
    assert content(tmp_path, "by-1") == content(tmp_path, "by-2")


def test_the_processes_cpu_time_is_in_the_stage_s_energy(
    use: Callable[[int], None], tmp_path: Path
):
    texts = [f"{i} " + "Who's there? Nay, answer me: stand, and unfold. " * 400 for i in range(150)]
    lines = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    asked = ["until=shards", "gpu=cpu", f"data.source.path={tmp_path}/a.jsonl",
             "telemetry.cpu_tdp_w=100", "telemetry.cpu_tdp_threads=1"]  # fmt: skip
    use(2)
    before, own_before = os.times(), time.process_time()
    run_dir = build(tmp_path, "a", asked)
    after = os.times()
    own_s = time.process_time() - own_before
    theirs_s = (
        after.children_user - before.children_user + after.children_system - before.children_system
    )
    assert theirs_s > 0.5
    (row,) = [r for r in read_jsonl(run_dir / "stages.jsonl") if r["window"] == "run/shards"]
    # 100 J for each second of a core.
    assert 95 * theirs_s < row["energy_j"]["cpu"] < 100 * (theirs_s + own_s) + 5
