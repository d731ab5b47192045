"""Which line of a server's log says why it ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdwatts.serving.engines.last_words import last_words

# Shapes of what vLLM 0.32 and transformers 5.23 write, with their decorations.
_ENGINE_CORE = """\
(EngineCore pid=99) ERROR 11-30 06:20:01 [core.py:1100] EngineCore failed to start.
(EngineCore pid=99) ERROR 11-30 06:20:01 [core.py:1100] Traceback (most recent call last):
(EngineCore pid=99) ERROR 11-30 06:20:01 [core.py:1100] ValueError: No memory for the cache.
(EngineCore pid=99) Process EngineCore:
(APIServer pid=98) Traceback (most recent call last):
(APIServer pid=98)   File "/a/b.py", line 3, in main
(APIServer pid=98) RuntimeError: Engine core initialization failed. See root cause above.
/lib/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked objects
  warnings.warn('resource_tracker: There appear to be %d '
"""
_PYDANTIC = """\
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, max_model_len (4096) is greater than 512. [type=value_error, input_value=Args()]
    For further information visit https://errors.pydantic.dev/2.14/v/value_error
"""
_ARGPARSE = "usage: api_server.py [-h]\napi_server.py: error: unrecognized arguments: --foo\n"
_CLICK = "Usage: x serve\n\nError: No such option '--foo'.\n\nOptions:\n  --host TEXT  address\n"
_BOXED = "╭─ Error ───╮\n│ No such option: --foo │\n╰───╯\n"
_PORT = (
    "ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address "
    "already in use\nINFO:     Waiting for application shutdown.\n"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_ENGINE_CORE, "ValueError: No memory for the cache."),
        (_PYDANTIC, "Value error, max_model_len (4096) is greater than 512."),
        (_ARGPARSE, "api_server.py: error: unrecognized arguments: --foo"),
        (_CLICK, "Error: No such option '--foo'."),
        (_BOXED, "No such option: --foo"),
        (_PORT, _PORT.split("\n")[0]),
        ("loading\n\x1b[31mgiving up\x1b[0m\n\n", "giving up"),
        ("torch.OutOfMemoryError: CUDA out.\n", "torch.OutOfMemoryError: CUDA out."),
        ("ValueError: " + "x" * 1000, "ValueError: " + "x" * 288),
        ("", None),
    ],
)
def test_the_reason_is_the_last_line_that_gives_one(tmp_path: Path, text: str, words: str | None):
    path = tmp_path / "server.log"
    path.write_text(text)
    assert last_words(path) == words
