"""Fixtures of all tests: the shipped pair's configuration and tokenizer, no network, no caches."""

from __future__ import annotations

import atexit
import copy
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kdwatts.runtime import interrupt

# Before any test imports a library that reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# What somebody once fetched or cached may not decide a test.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="kdwatts-tests-hf-home-")
# Each would be looked into in place of a folder below HF_HOME.
for _name in (
    "HF_ASSETS_CACHE", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_MODULES_CACHE", "HF_XET_CACHE",
    "HUGGINGFACE_ASSETS_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE",
):  # fmt: skip
    os.environ.pop(_name, None)
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<{{ message.role }}>{{ message.content }}<|end_of_text|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


for _number in (signal.SIGHUP, signal.SIGQUIT):
    # Ignored where nohup or a script's background started the tests; every child would inherit it.
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DEAREST = ("test_shipped.py", "test_pipeline.py", "test_ranks_run.py", "telemetry/")
"""Files that take longest, the longest first: begun last, each would keep one worker alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the dearest files first; the order within a file stays."""

    def rank(item: pytest.Item) -> int:
        inside = item.path.relative_to(Path(__file__).parent).as_posix()
        found = (index for index, name in enumerate(DEAREST) if inside.startswith(name))
        return next(found, len(DEAREST))

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def no_signal_is_left_over() -> Iterator[None]:
    """A run keeps the signals that it was sent until the next one begins; no test sees them."""
    yield
    if interrupt.received():
        with interrupt.deferred():
            pass


@pytest.fixture(scope="session")
def configure() -> Callable[..., Any]:
    """Composes and checks the configuration of a command's overrides."""
    from kdwatts.cli.preflight import compose
    from kdwatts.config.checks import to_config

    return lambda *overrides: to_config(compose(overrides))


@pytest.fixture
def tokenizer() -> Any:
    """The shipped tokenizer of 1,024 byte-level tokens, with a plain chat template."""
    from kdwatts.models.load import load_tokenizer

    tokenizer = load_tokenizer("tiny:tokenizer")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture
def kdwatts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int | str | None]]:
    """Exit code of `python -m kdwatts ARGUMENTS`, in this process."""
    from kdwatts.cli import sweep
    from kdwatts.cli.command_line import main

    def run(*arguments: str) -> int | str | None:
        sweep.sweep_dirs.clear()
        sweep.known_outcomes.clear()
        monkeypatch.setattr(sys, "argv", ["kdwatts", *arguments])
        try:
            main()
        except SystemExit as stop:
            return stop.code
        return 0

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield run
    sweep.sweep_dirs.clear()
    sweep.known_outcomes.clear()
    for handler in set(root.handlers) - set(handlers):  # Of Hydra, which keeps its files open.
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def nvml_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for LD_LIBRARY_PATH that holds the replaying libnvidia-ml.so.1."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is missing: the replaying NVML library cannot be built")
    source = Path(__file__).parent / "nvml_replay" / "nvml_replay.c"
    folder = tmp_path_factory.mktemp("nvml")
    library = folder / "libnvidia-ml.so.1"
    command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command += ["-Wl,-soname,libnvidia-ml.so.1", "-o", str(library), str(source), "-lm"]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="session")
def short_windows() -> Callable[[float], AbstractContextManager[None]]:
    """Has serving be measured in windows of so many seconds, which the settings refuse below 2."""
    from kdwatts.stages import inference

    real = inference.serving_costs

    @contextmanager
    def short(window_s: float) -> Iterator[None]:
        def serving_costs(model: Any, prompts: Any, grid: Any, **how: Any) -> Any:
            grid = copy.copy(grid)
            grid.min_window_s = window_s
            return real(model, prompts, grid, **how)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(inference, "serving_costs", serving_costs)
            yield

    return short


@pytest.fixture(scope="session")
def make_llama() -> Callable[..., Any]:
    """Makes a real Llama of two blocks, the same weights every time; keywords change its shape."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }

    def make(**changes: Any) -> LlamaForCausalLM:
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**{**shape, **changes})).eval()

    return make
