"""What the system refuses, as a person reads it."""

from __future__ import annotations

import errno
from pathlib import Path

from multirun_analysis.values.atomic import replace_whole
from multirun_analysis.values.refusals import in_words


def test_an_error_of_the_system_is_a_sentence_about_the_path_that_was_asked_for(tmp_path: Path):
    folder = tmp_path / "page.pdf"
    folder.mkdir()
    try:
        replace_whole(folder, lambda path: path.write_text("x"))
    except OSError as error:
        sentence = f"{folder}: is a directory; give a place that can be read and written"
        assert in_words(error) == sentence
    missing = tmp_path / "none" / "page.pdf"
    try:
        replace_whole(missing, lambda path: path.write_text("x"))
    except OSError as error:
        assert in_words(error).startswith(f"{missing}: no such file or directory; ")
    full = OSError(errno.ENOSPC, "No space left on device")
    assert in_words(full) == "no space left on device; free space, or write to another disk"


def test_our_own_words_stay_as_they_are():
    assert in_words(ValueError("a: b; give c")) == "a: b; give c"
    assert in_words(OSError("the browser ended")) == "the browser ended"


def test_a_name_that_is_no_utf_8_is_shown_with_its_bytes():
    try:
        "0-\udcff/run".encode()
    except UnicodeEncodeError as error:
        assert in_words(error).startswith(r"'0-\udcff/run' holds bytes that are no UTF-8; rename")
