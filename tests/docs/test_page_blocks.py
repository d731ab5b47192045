"""The harness of the pages: what it reads, what it masks, what it finds wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import blocks, difference, masked, run_page

PAGE = """Some words.

```python
# made/say.py
print("3 runs, 12.5 J")
```

```bash
cd made
python say.py    # a comment
```

Prose between.

```text
4 runs, 9 J
```

```bash
python say.py
```

<!-- composed only: it needs a GPU -->
```bash
false \\
  --never
```
"""


def test_a_page_is_read_as_files_commands_and_what_they_print():
    file, first, text, second, marked = blocks(PAGE)
    assert (file.file_name, file.line, text.language) == ("made/say.py", 3, "text")
    assert first.commands == ["cd made", "python say.py"] and first.mark is second.mark is None
    assert (marked.mark, marked.commands) == ("composed only", ["false --never"])


def test_commands_run_in_one_shell_and_what_is_marked_does_not(tmp_path: Path):
    folder = tmp_path / "reader"
    folder.mkdir()
    first, second = run_page(PAGE, folder)
    assert first.text == second.text == "3 runs, 12.5 J\n"
    assert (first.expected, second.expected) == ("4 runs, 9 J\n", None)


def test_a_command_that_fails_fails_the_page_with_its_line_and_words(tmp_path: Path):
    folder = tmp_path / "reader"
    folder.mkdir()
    page = "```bash\necho so far\nls nowhere\necho never\n```\n"
    with pytest.raises(RuntimeError, match=r"line 1 ended with 2: so far\nls: .*nowhere"):
        run_page(page, folder)


def test_a_fence_without_an_end_is_refused():
    with pytest.raises(ValueError, match="has no end"):
        blocks("```bash\nls\n")


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("loss 2.077, 8.9e-05 J", "loss 11.3, 3 J"),
        ("38.1 J", "45.474903663437516 J"),
        ("27 ± 13 J estimated", "1,027.5 ± 8 mJ estimated"),
        ("built f1a03e6a17c665ba (3.61 J)", "built 155377f5febb55ea (361 J)"),
        ("[2026-11-29 19:57:58,713] done", "[2027-01-02 09:07:08,001] done"),
        ("run  state\na    done", "run      state\na        done"),
        ("first\n...\nlast", "first\na\nb\nlast"),
        ("...\nlast\n...", "last"),
    ],
)
def test_numbers_times_keys_widths_and_lines_left_out_are_no_difference(page: str, printed: str):
    assert difference(page, printed) is None


@pytest.mark.parametrize(
    ("page", "printed", "found"),
    [
        ("2 runs done", "2 runs failed", "'# runs done' was not printed"),
        ("a\nb", "a", "'b' was not printed"),
        ("a", "a\nb", "more than the page says was printed"),
        ("first\n...\nlast", "first\na\nlost", "'last' was not printed"),
        ("gpu=h100", "gpu=h200", "'gpu=h100' was not printed"),
        ("9 J", "9 W", "'# J' was not printed"),
    ],
)
def test_a_wrong_word_is_a_difference(page: str, printed: str, found: str):
    said = difference(page, printed)
    assert said is not None and said.startswith(found)


def test_the_readers_folder_is_masked_wherever_it_lies(tmp_path: Path):
    assert masked(f"done {tmp_path}/multirun", tmp_path) == masked("done /home/you/multirun")
