"""A login node fetches from a hub that runs here, then a node that reaches none runs."""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdwatts.runtime.paths import TINY_DIR
from tests.cli.commands_in_one_process import ASK
from tests.hub_server import COMMIT, Hub, serving

REPOSITORY = Path(__file__).parents[2]

READ = """
import json, sys
from kdwatts.data import hub
from kdwatts.data.documents import read_documents
from kdwatts.config.data import TextSource
source = TextSource(path="org/plays", name="small", num_rows=json.loads(sys.argv[1]))
answer = {"texts": [], "error": None, "commit": None}
try:
    answer["commit"] = hub.commit_of(source)
    for document in read_documents(source, answer["commit"]):
        answer["texts"].append(document.content)
except RuntimeError as error:
    answer["error"] = str(error)
print(json.dumps(answer))
"""

PAIR = (
    "gpu=cpu",
    "model.tokenizer=org/tokenizer",
    f"model.tokenizer_revision='{COMMIT}'",
    "model.teacher.path=org/teacher",
    f"model.teacher.revision='{COMMIT}'",
    "data.source.path=org/plays",
    "data.source.name=small",
)
NUM_FILES, ROWS_PER_FILE = 3, 100


@dataclass(frozen=True)
class Site:
    """A hub, and a machine that may reach it."""

    hub: Hub
    home: Path

    def python(self, script: str, argument: Any, *, offline: bool, **changes: str) -> Any:
        """What a fresh process prints; the libraries read their environment when imported."""
        environment = {
            **os.environ,
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.home),
            "HF_HUB_OFFLINE": str(int(offline)),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **changes,
        }
        command = [sys.executable, "-c", script, json.dumps(argument)]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def ask(self, *commands: list[str], offline: bool = False, **changes: str) -> Any:
        """Exit code, stdout and stderr of each command."""
        return self.python(ASK, commands, offline=offline, **changes)


def fill(root: Path) -> None:
    """The shipped teacher, tokenizer and some plays, as repositories of a hub."""
    models = root / "models" / "org"
    shutil.copytree(TINY_DIR / "teacher", models / "teacher")
    (models / "teacher" / "original").mkdir()
    (models / "teacher" / "original" / "other.safetensors").write_bytes(b"other weights")
    (models / "teacher" / "pytorch_model.bin").write_bytes(b"pickled weights")
    shutil.copytree(TINY_DIR / "tokenizer", models / "tokenizer")
    plays = root / "datasets" / "org" / "plays"
    (plays / "data").mkdir(parents=True)
    (plays / "README.md").write_text(
        "---\nconfigs:\n- config_name: small\n  data_files:\n"
        "  - split: train\n    path: data/*.parquet\n---\n"
    )
    with lzma.open(TINY_DIR / "corpus" / "train.jsonl.xz", "rt") as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(300), strict=False)]
    for number in range(NUM_FILES):
        part = texts[number * ROWS_PER_FILE :][:ROWS_PER_FILE]
        pq.write_table(pa.table({"text": part}), plays / "data" / f"{number}.parquet")


def fill_questions(root: Path) -> None:
    """Four questions where the harness looks for ARC."""
    arc = root / "datasets" / "allenai" / "ai2_arc"
    (arc / "ARC-Challenge").mkdir(parents=True)
    splits = ("train", "validation", "test")
    entries = "".join(f"  - split: {s}\n    path: ARC-Challenge/{s}.parquet\n" for s in splits)
    (arc / "README.md").write_text(
        f"---\nconfigs:\n- config_name: ARC-Challenge\n  data_files:\n{entries}---\n"
    )
    question = {
        "question": "Which of these gives light?",
        "choices": {"text": ["a stone", "the sun"], "label": ["A", "B"]},
        "answerKey": "B",
    }
    rows = [{"id": str(number), **question} for number in range(4)]
    for split in splits:
        pq.write_table(pa.Table.from_pylist(rows), arc / "ARC-Challenge" / f"{split}.parquet")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    fill(root)
    fill_questions(root)
    with serving(root) as served:
        yield served


@pytest.fixture(scope="module")
def fetched(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, list[str]]:
    """A machine after `until=prefetch` of a sweep, and what the command said."""
    site = Site(hub, tmp_path_factory.mktemp("home"))
    command = ["until=prefetch", "-m", "paradigm=sft,response", "data.source.num_rows=150", *PAIR]
    ((code, out, err),) = site.ask(command)
    assert code == 0, err
    return site, out.splitlines()


def test_everything_is_fetched_once_for_a_sweep_and_told(fetched: tuple[Site, list[str]]):
    site, lines = fetched
    assert lines == [
        "tiny:held_out: local, nothing to fetch",
        "tiny:word_order: local, nothing to fetch",
        f"tokenizer org/tokenizer: 0.1 MB in {snapshot(site, 'tokenizer')}",
        f"tokenizer org/teacher: 0.1 MB in {snapshot(site, 'teacher')}",
        f"model org/teacher: 1.7 MB in {snapshot(site, 'teacher')}",
        "data org/plays small train: 2 files, 0.3 MB, enough for 150 rows",
        f"for jobs on nodes without a network, set: HF_HOME={site.home} HF_HUB_OFFLINE=1",
    ]
    sent = [name for name in site.hub.sent if not name.endswith("README.md")]
    assert len(sent) == len(set(sent))
    assert "org/plays/data/1.parquet" in sent and "org/plays/data/2.parquet" not in sent
    assert not any("other" in name or name.endswith(".bin") for name in sent)


def snapshot(site: Site, name: str) -> Path:
    return site.home / "hub" / f"models--org--{name}" / "snapshots" / COMMIT


def test_a_node_without_a_network_then_builds_shards_and_teacher_signals(
    fetched: tuple[Site, list[str]], tmp_path: Path
):
    site, _ = fetched
    folders = [f"hydra.run.dir={tmp_path}/run", f"store_dir={tmp_path}/store"]
    command = ["until=teacher", "training=smoke", "data.source.num_rows=150", *PAIR, *folders]
    ((code, _, err),) = site.ask(command, offline=True, HF_ENDPOINT="http://127.0.0.1:9")
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "done"
    (index,) = (tmp_path / "store" / "shards").glob("*/index.json")
    (part,) = json.loads(index.read_text())["parts"]
    assert (part["revision"], part["commit"]) == (None, COMMIT)


@pytest.mark.slow
def test_the_text_read_there_is_the_text_that_a_stream_brings(
    fetched: tuple[Site, list[str]], tmp_path: Path
):
    site, _ = fetched
    streamed = Site(site.hub, tmp_path).python(READ, 150, offline=False)
    kept = site.python(READ, 150, offline=True)
    assert len(kept["texts"]) == 150
    assert kept["commit"] == COMMIT
    assert kept == streamed


FETCH = """
import json, sys
from kdwatts.data import hub
from kdwatts.config.data import TextSource
lists = []
for limit in json.loads(sys.argv[1]):
    kept, num_bytes = hub.fetch(TextSource(path="org/plays", name="small"), limit)
    lists.append([kept.files, kept.is_whole, num_bytes])
print(json.dumps(lists))
"""


def test_a_smaller_request_later_keeps_the_larger_list_and_a_larger_one_extends_it(
    hub: Hub, tmp_path: Path
):
    site = Site(hub, tmp_path)
    first, smaller, larger, again = site.python(FETCH, [150, 50, 250, 1], offline=False)
    names = [f"data/{number}.parquet" for number in range(NUM_FILES)]
    assert first[:2] == [names[:2], False]
    assert smaller == first
    assert larger[:2] == again[:2] == [names, True]
    (path,) = (tmp_path / "kdwatts").glob("*.json")
    assert json.loads(path.read_text())["files"] == names


@pytest.mark.slow
def test_more_text_than_was_fetched_is_refused_where_it_ends_with_what_to_do(
    fetched: tuple[Site, list[str]], tmp_path: Path
):
    site, _ = fetched
    read = site.python(READ, None, offline=True)
    assert len(read["texts"]) == 2 * ROWS_PER_FILE
    assert read["error"] == (
        f"data.source.path=org/plays: HF_HOME={site.home} holds only its first 2 files, but "
        "more rows are needed; run the command with until=prefetch where there is a network, "
        "with the same HF_HOME"
    )
    nothing = Site(site.hub, tmp_path).python(READ, None, offline=True)
    assert nothing["error"].startswith(
        f"data.source.path=org/plays is not in HF_HOME={tmp_path}, and HF_HUB_OFFLINE forbids"
    )


@pytest.mark.slow
def test_the_harness_s_questions_are_fetched_and_asked_without_a_network(hub: Hub, tmp_path: Path):
    site = Site(hub, tmp_path / "home")
    task = "eval.tasks=[{name:arc_challenge,primary_metric:acc_norm,chance:0.25,num_fewshot:0}]"
    run = [f"hydra.run.dir={tmp_path}/run", f"store_dir={tmp_path}/store", "until=evaluate"]
    tiny = ["gpu=cpu", "paradigm=sft", "model=tiny_teacher", "training=smoke", task]
    ((code, out, err),) = site.ask(["until=prefetch", *tiny])
    assert code == 0, err
    assert "task arc_challenge: its questions are in the cache of data sets" in out
    ((code, _, err),) = site.ask([*tiny, *run], offline=True, HF_ENDPOINT="http://127.0.0.1:9")
    assert code == 0, err
    scores = json.loads((tmp_path / "run" / "eval.json").read_text())
    asked = {(score["subject"], score["num_samples"]) for score in scores}
    assert asked == {("student", 4)}


def test_a_pair_that_ships_needs_nothing_and_says_so_without_a_network(
    kdwatts: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    home = Path(os.environ["HF_HOME"])
    before = sorted(home.rglob("*"))
    assert kdwatts("until=prefetch", "gpu=cpu") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "this command needs nothing from a hub"
    assert "tiny:teacher: local, nothing to fetch" in lines
    assert sorted(home.rglob("*")) == before


@contextlib.contextmanager
def gated(hub: Hub, name: str) -> Iterator[None]:
    hub.gated.add(name)
    yield
    hub.gated.remove(name)


@pytest.mark.slow
def test_what_cannot_be_fetched_is_told_in_one_sentence(hub: Hub, tmp_path: Path):
    site, online = Site(hub, tmp_path), ["until=prefetch", *PAIR]
    shape = "model.teacher.architecture.num_layers=5"
    with gated(hub, "org/teacher"), gated(hub, "allenai/ai2_arc"):
        (by_licence, unknown, no_data, gated_data) = site.ask(
            online,
            [*online, "model.teacher.path=org/nobody"],
            [*online, "model.teacher.path=tiny:teacher", "data.source.path=org/nothing"],
            [*online, "model.teacher.path=tiny:teacher", "data.source.path=allenai/ai2_arc"],
        )
    (other_shape,) = site.ask([*online, shape])
    ((forbidden),) = site.ask(online, offline=True)
    (unreachable,) = site.ask(online, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=f"{tmp_path}/new")
    told = {
        "gated": (
            by_licence,
            1,
            f"org/teacher is gated: accept its licence (Apache-2.0) at {hub.url}/",
        ),
        "no such model": (unknown, 1, f"org/nobody is not at {hub.url}, or this account may not"),
        "no such data": (no_data, 1, f"org/nothing is not at {hub.url}, or this account may not"),
        "gated data": (
            gated_data,
            1,
            f"allenai/ai2_arc is gated: accept its licence at {hub.url}/datasets/all",
        ),
        "another shape": (other_shape, 1, "model org/teacher has num_hidden_l"),
        "offline": (forbidden, 1, "until=prefetch would fetch org/teacher, org/tokenizer, org/pla"),
        "no network": (unreachable, 1, "org/tokenizer cannot be fetched from http://127.0.0.1:9 ("),
    }
    for case, ((code, _, err), expected, said) in told.items():
        assert code == expected, (case, err)
        assert err.startswith(f"kdwatts: {said}"), (case, err)
        assert err.count("\n") == 1, (case, err)
