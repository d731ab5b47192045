"""Processes that work on batches: when they start, what they may use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from kdwatts.data import workers
from kdwatts.data.documents import Document
from kdwatts.data.shards import encode_document, encode_documents
from kdwatts.data.workers import Workers, job_cpus
from kdwatts.runtime.interrupt import SIGNALS


def doubled(items: list[int], factor: int) -> list[int]:
    return [factor * item for item in items]


def test_little_work_starts_no_process_and_more_starts_one_for_each_part_of_it(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(workers, "CHARACTERS_PER_WORKER", 10)
    monkeypatch.setattr(workers, "job_cpus", lambda: 3)
    started, before = [], set(psutil.Process().children())
    # As many as the work repays: 19 characters none, 20 two, 30 and more three.
    for size, num_processes in ((19, 0), (20, 2), (60, 3)):
        with Workers(doubled, 2, stage="shards", on_start=lambda: started.append(1)) as crew:
            batches = [(number, [number], 1) for number in range(size)]
            found = [(kept, list(results)) for kept, results in crew.in_order(batches)]
            assert found == [(number, [2 * number]) for number in range(size)]
            assert len(set(psutil.Process().children()) - before) == num_processes
        assert set(psutil.Process().children()) <= before
    assert len(started) >= 2


def test_few_batches_are_at_hand_at_a_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "CHARACTERS_PER_WORKER", 10)
    monkeypatch.setattr(workers, "job_cpus", lambda: 2)
    read = []
    with Workers(doubled, 2, stage="shards") as crew:
        batches = ((read.append(number) or number, [number], 1) for number in range(500))
        for kept, results in crew.in_order(batches):
            assert list(results) == [2 * kept]
            # Twenty were read to see whether the work is worth it, then two for each process.
            assert len(read) <= max(20, kept + 4)


def test_what_asks_the_run_to_stop_ends_none_of_its_processes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "CHARACTERS_PER_WORKER", 10)
    monkeypatch.setattr(workers, "job_cpus", lambda: 2)
    before = set(psutil.Process().children())
    with Workers(doubled, 2, stage="shards") as crew:
        found = []
        for _, results in crew.in_order((None, [number], 1) for number in range(100)):
            found += results
            # A scheduler tells every process of a job; early ones are hit while they start.
            for process in set(psutil.Process().children()) - before:
                for number in SIGNALS:
                    process.send_signal(number)
    assert found == [2 * number for number in range(100)]


ENDLESS = """
from kdwatts.data import workers
workers.CHARACTERS_PER_WORKER, workers.job_cpus = 1, lambda: 2
with workers.Workers(sorted, stage='shards') as crew:
    for _, results in crew.in_order((None, [3, 1, 2] * 50_000, 1) for _ in iter(int, 1)):
        list(results)
        print("works", flush=True)
"""


@pytest.mark.parametrize("victim", ["parent", "child"])
def test_a_killed_parent_leaves_no_process_and_a_killed_process_is_one_sentence(victim: str):
    parent = subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout and parent.stderr
    try:
        for _ in range(4):
            assert parent.stdout.readline() == "works\n"
        children = psutil.Process(parent.pid).children()
        assert len(children) == 2
        os.kill(parent.pid if victim == "parent" else children[0].pid, signal.SIGKILL)
        _, said = parent.communicate(timeout=60)
    finally:
        parent.kill()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    if victim == "child":
        assert (
            "RuntimeError: shards: a process that works on the text ended with exit code -9, as"
            in said
        )


def test_texts_given_together_have_the_tokens_that_each_has_alone(tokenizer):
    texts = ["To be, or not", "", "Close with <|end_of_text|>, always. ☃", " \n", "é" * 300]
    documents = [Document(text, None) for text in texts * 40]
    alone = [encode_document(text, tokenizer) for text in texts * 40]
    # Whatever the tokenizer was asked before, nothing is cut or filled up.
    tokenizer("To be, or not", truncation=True, max_length=2, padding="max_length")
    together = encode_documents(documents, tokenizer)
    assert [one.dtype for one in together] == [np.uint32] * len(documents)
    assert [one.tolist() for one in together] == [one.tolist() for one in alone]


def test_a_tokenizer_that_does_more_to_a_text_than_its_kind_does_it_also_to_many(tokenizer):
    class Shouting(type(tokenizer)):
        def _encode_plus(self, text, **named):
            return super()._encode_plus(text.upper(), **named)

    tokenizer.__class__ = Shouting
    (together,) = encode_documents([Document("To be", None)], tokenizer)
    assert tokenizer.decode(together.tolist()) == "TO BE<|end_of_text|>"


def test_what_works_in_a_process_imports_no_torch():
    script = (
        "import sys, kdwatts.data.overlap, kdwatts.data.workers; "
        "from transformers import PreTrainedTokenizerFast; print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script]
    printed = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert printed.stdout == "False\n"


def test_a_job_uses_no_more_cores_than_it_may_run_on_than_slurm_grants_or_than_its_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert job_cpus({}, tmp_path) == 8
    assert job_cpus({"SLURM_CPUS_ON_NODE": "5"}, tmp_path) == 5
    assert job_cpus({"SLURM_CPUS_ON_NODE": "64"}, tmp_path) == 8
    # The second version's form, and the first's: 350 ms of each 100 ms are three cores.
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert job_cpus({}, tmp_path) == 8
    (tmp_path / "cpu.max").write_text("350000 100000\n")
    assert job_cpus({}, tmp_path) == 3
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert job_cpus({}, tmp_path) == 1
