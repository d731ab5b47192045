"""What earlier stages had on the GPU is given back before a process is started that needs it."""

from __future__ import annotations

import ast
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from kdwatts import stages
from kdwatts.config.evaluation import EvalTask
from kdwatts.models.load import load_model
from kdwatts.runtime.ranks import Ranks
from kdwatts.stages import distill, evaluate, following, gpu_memory, signals_engine
from kdwatts.stages.rank_messages import Built, Call, Ended, to_values
from kdwatts.stages.work import Work
from kdwatts.telemetry.bystander import Bystander, unmeasured_window
from kdwatts.telemetry.node_facts import facts_of_this_node
from kdwatts.training.company import Company

STAND_IN = Path(__file__).parents[1] / "teacher" / "answering_engine"
STARTS = {"starting.running", "lighteval.evaluate", "serve_and_measure"}
"""What starts a process that may use the GPU."""


class Started(Exception):
    """Raised in place of a start."""


def of_cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to a GPU, in its order, as if there was one that this process uses."""
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: done.append(f"wait {device}"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("give back"))
    return done


def work_of(config: Any, folder: Path) -> Work:
    """A build on a GPU, of a configuration for the CPU: the GPU itself is never asked."""
    return Work(
        config=config,
        inputs={},
        out_dir=folder,
        scratch_dir=folder,
        run_dir=folder,
        attempt=1,
        meter=Bystander(lambda: None),
        window=unmeasured_window("test"),
        device=torch.device("cuda", 0),
    )


def start_lighteval(work: Work) -> None:
    task = EvalTask("own", "acc", harness="lighteval")
    evaluate._by_lighteval(work, "teacher", None, [(task, False)], [])


def start_teacher(work: Work) -> None:
    with signals_engine.engine_running(work):
        raise AssertionError("nothing was started")


@pytest.mark.parametrize("start", [start_lighteval, start_teacher])
def test_a_model_that_nobody_names_is_gone_and_its_memory_free_when_a_process_starts(
    start: Callable[[Work], None],
    configure: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{STAND_IN}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    config = configure(
        *("gpu=cpu", "paradigm=response", "paradigm.response.teacher_temperatures=[1]"),
        *("training=smoke", "paradigm.signals_engine=vllm"),
        f"eval.serving.vllm.python={python}",
    )
    model: Any = load_model(config.model.teacher, dtype=torch.float32)
    model.holds_itself = [model]
    gone = weakref.ref(model)
    del model
    assert gone() is not None
    done = of_cuda(monkeypatch)

    def note(popen: Any, command: list[str], **settings: Any) -> None:
        if settings.get("start_new_session"):
            done.append("start" if gone() is None else "start beside the model")
            raise Started
        plain(popen, command, **settings)

    plain = subprocess.Popen.__init__
    monkeypatch.setattr(subprocess.Popen, "__init__", note)
    with pytest.raises(Started):
        start(work_of(config, tmp_path))
    assert done == ["wait cuda:0", "give back", "start"]


def test_every_stage_that_starts_such_a_process_gives_the_memory_back_first():
    found = []
    for path in sorted(Path(str(stages.__file__)).parent.glob("*.py")):
        for function in ast.parse(path.read_text()).body:
            calls = {
                ast.unparse(node.func): node.lineno
                for node in ast.walk(function)
                if isinstance(node, ast.Call)
            }
            if started := STARTS & calls.keys():
                assert calls["release"] < min(calls[name] for name in started), path
                found.append(path.stem)
    assert found == ["evaluate", "serving", "signals_engine", "writers"]


def test_a_rank_gives_its_memory_back_once_the_first_has_closed_the_window_of_what_was_built(
    configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    done: list[Any] = []
    monkeypatch.setattr(distill, "assist", lambda work, directory: done.append("trained"))
    monkeypatch.setattr(gpu_memory, "release", done.append)
    folders = dict.fromkeys(("artifact_dir", "scratch_dir", "run_dir"), tmp_path)
    call = Call("distill", configure("gpu=cpu"), inputs={}, attempt=1, **folders)
    store, nodes = HashStore(), [facts_of_this_node([], ranks=range(2))]
    first = Company(Ranks(0, 2, 0), store, token="t", nodes=nodes)
    for message in (call, Built("cpu"), Ended("done")):
        first.tell(to_values(message))
    second = Company(Ranks(1, 2, 1), store, token="t", nodes=nodes)
    monkeypatch.setattr(second, "answer", lambda value=None: done.append("answered"))
    assert following.follow(second) == "done"
    assert done == ["trained", torch.device("cpu"), "answered"]


def test_a_gpu_that_this_process_does_not_use_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    done = of_cuda(monkeypatch)
    gpu_memory.release(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    gpu_memory.release(torch.device("cuda"))
    assert done == []
