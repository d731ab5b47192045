"""The shipped engines themselves: one streamed answer of exactly the tokens asked for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from kdwatts.config.serving import Serving, TransformersServe, Vllm
from kdwatts.serving.engines.dialects import DIALECTS
from kdwatts.serving.engines.served_model import ServedModel
from kdwatts.serving.engines.server import Server
from kdwatts.serving.engines.starting import running
from kdwatts.serving.load.requests import Request

NUM_TOKENS = 9
PROMPT = "The king said unto"


@pytest.fixture(scope="module")
def model_dir(
    make_llama: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[int]]:
    """A Llama whose heads are 32 wide, the least that vLLM takes, and the prompt in its tokens."""
    from kdwatts.models.load import load_tokenizer

    folder = tmp_path_factory.mktemp("llama")
    tokenizer = load_tokenizer("tiny:tokenizer")
    ends = {f"{name}_token_id": tokenizer.eos_token_id for name in ("eos", "bos", "pad")}
    make_llama(
        vocab_size=len(tokenizer), hidden_size=64, max_position_embeddings=256, **ends
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, tokenizer.encode(PROMPT, add_special_tokens=False)


def _serving(settings: Serving, model: Path, folder: Path) -> Any:
    served = ServedModel(str(model), "student", "float32", None, 256)
    return running(settings, served, log_path=folder / "server.log")


def _stated(event: dict[str, Any]) -> int | None:
    """Tokens of the answer until this event, where the server says it."""
    usage = event.get("usage") or {}
    return usage.get("completion_tokens")


def _events(server: Server, ids: list[int], length: str) -> list[dict[str, Any]]:
    body = DIALECTS[server.dialect](server.model, Request(0, ids, PROMPT, NUM_TOKENS), length)

    async def stream() -> list[dict[str, Any]]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{server.url}/v1/completions", json=body) as answer,
        ):
            text = await answer.text()
        assert answer.status == 200, text
        events = [line.removeprefix("data: ") for line in text.split("\n") if line.strip()]
        return [json.loads(event) for event in events if event != "[DONE]"]

    return asyncio.run(stream())


def _finish_reasons(events: list[dict[str, Any]]) -> list[str]:
    choices = [choice for event in events for choice in event["choices"]]
    return [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]


def test_transformers_serve_writes_exactly_the_tokens_that_were_forced(
    model_dir: tuple[Path, list[int]], tmp_path: Path
):
    model, ids = model_dir
    with _serving(Serving(engine="transformers"), model, tmp_path) as server:
        events = _events(server, ids, "forced")
        natural = _events(server, ids, "natural")
        assert server.read_counters() is None
    said = [tokens for event in events if (tokens := _stated(event)) is not None]
    assert said == [NUM_TOKENS]
    assert _finish_reasons(events) == ["length"]
    assert 1 <= (_stated(natural[-1]) or 0) <= NUM_TOKENS
    assert server.record.flags[:2] == ["--device=cpu", "--dtype=float32"]
    assert (server.record.precision, server.record.quantization) == ("float32", None)
    assert PROMPT not in (tmp_path / "server.log").read_text()


def test_a_model_that_transformers_serve_refuses_is_refused_in_its_own_words(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with (
        pytest.raises(RuntimeError, match=r"its last words: ValueError: Unrecognized processing"),
        _serving(Serving(engine="transformers"), tmp_path / "empty", tmp_path),
    ):
        pass


@pytest.mark.slow
def test_an_unknown_flag_of_transformers_serve_is_refused_in_its_own_words(
    model_dir: tuple[Path, list[int]], tmp_path: Path
):
    settings = Serving(engine="transformers", transformers=TransformersServe(["--no-such-flag"]))
    with (
        pytest.raises(RuntimeError, match=r"its last words: Error: No such option '?--no-such-"),
        _serving(settings, model_dir[0], tmp_path),
    ):
        pass


@pytest.fixture
def vllm() -> Vllm:
    python = os.environ.get("KDWATTS_VLLM_PYTHON")
    if not python:
        pytest.skip("set KDWATTS_VLLM_PYTHON to a Python interpreter that has vLLM")
    return Vllm(python=python)


@pytest.mark.slow
def test_vllm_writes_exactly_the_tokens_that_were_forced_and_counts_them_itself(
    model_dir: tuple[Path, list[int]], tmp_path: Path, vllm: Vllm
):
    model, ids = model_dir
    with _serving(Serving(engine="vllm", vllm=vllm), model, tmp_path) as server:
        before = server.read_counters()
        events = _events(server, ids, "forced")
        after = server.read_counters()
    said = [tokens for event in events if (tokens := _stated(event)) is not None]
    assert said[0] >= 1
    assert said == sorted(said)
    assert said[-1] == NUM_TOKENS
    assert _finish_reasons(events) == ["length"]
    assert events[-1]["usage"]["prompt_tokens"] == len(ids)
    assert before == {"computed_prompt_tokens": 0.0, "output_tokens": 0.0}
    assert after == {"computed_prompt_tokens": len(ids), "output_tokens": NUM_TOKENS}
    assert PROMPT not in (tmp_path / "server.log").read_text()


@pytest.mark.slow
def test_a_model_that_vllm_refuses_is_refused_in_its_own_words(tmp_path: Path, vllm: Vllm):
    (tmp_path / "empty").mkdir()
    with (
        pytest.raises(RuntimeError, match=r"its last words: Value error, Invalid repository ID"),
        _serving(Serving(engine="vllm", vllm=vllm), tmp_path / "empty", tmp_path),
    ):
        pass


@pytest.mark.slow
def test_a_kill_of_the_run_leaves_nothing_of_vllm(
    model_dir: tuple[Path, list[int]], tmp_path: Path, vllm: Vllm
):
    """vLLM is several processes, which hold 400 MB in /dev/shm."""
    program = (
        "import sys, time; from pathlib import Path\n"
        "from kdwatts.config.serving import Serving, Vllm\n"
        "from kdwatts.serving.engines.served_model import ServedModel\n"
        "from kdwatts.serving.engines.starting import running\n"
        "python, model, log_path = sys.argv[1:]\n"
        "settings = Serving(engine='vllm', vllm=Vllm(python=python))\n"
        "served = ServedModel(model, 'student', 'float32', None, 256)\n"
        "with running(settings, served, log_path=Path(log_path)) as server:\n"
        "    print(server.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    arguments = [str(vllm.python), str(model_dir[0]), str(tmp_path / "server.log")]
    run = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True
    )
    with run:
        assert run.stdout
        guard = psutil.Process(int(run.stdout.readline()))
        processes = guard.children(recursive=True)
        assert len(processes) >= 2
        maps = "".join(Path(f"/proc/{process.pid}/maps").read_text() for process in processes)
        memory = {name for name in os.listdir("/dev/shm") if f"/dev/shm/{name}\n" in maps}
        assert memory
        run.kill()
    _, left = psutil.wait_procs([guard, *processes], timeout=30)
    assert left == []
    assert memory.isdisjoint(os.listdir("/dev/shm"))
