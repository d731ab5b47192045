from __future__ import annotations

import re
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from kdwatts.runtime import paths


def test_the_shipped_groups_are_found_beside_the_package_and_inside_a_wheel_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert (paths.conf_dir() / "paradigm" / "response.yaml").is_file()
    package = tmp_path / "kdwatts"
    monkeypatch.setattr(paths, "PACKAGE_DIR", package)
    with pytest.raises(RuntimeError, match=r"no conf/config.yaml in .*/kdwatts or beside it"):
        paths.conf_dir()
    for folder in (tmp_path / "conf", package / "conf"):
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("")
        assert paths.conf_dir() == folder


def test_a_path_is_of_the_package_of_a_variable_of_home_or_as_given(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("HOME", "/home/me")
    assert paths.resolve_dir("tiny:corpus/train.jsonl.xz").is_file()
    assert paths.resolve_dir("$SCRATCH/models") == Path("/scratch/me/models")
    assert paths.resolve_dir("~/models") == Path("/home/me/models")
    assert paths.resolve_dir("models/a") == Path("models/a")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "'' is empty; give a path, or . for the folder where the command is started"),
        ("  ", "'  ' is empty; give a path"),
        ("/a/$KDWATTS_NONE/b", "the environment variable KDWATTS_NONE, which is not set; set it"),
        ("/a/${KDWATTS_NONE}", "the environment variable KDWATTS_NONE, which is not set; set it"),
        ("$KDWATTS_EMPTY/b", "the environment variable KDWATTS_EMPTY, which is empty; set it"),
        ("~kdwatts-nobody/b", "there is no such user; write ./~kdwatts-nobody for a name"),
    ],
)
def test_a_path_that_names_nothing_is_refused(
    path: str, said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("KDWATTS_NONE", raising=False)
    monkeypatch.setenv("KDWATTS_EMPTY", "")
    with pytest.raises(ValueError, match=re.escape(said)):
        paths.resolve_dir(path)
    with pytest.raises(ArgumentTypeError, match=re.escape(said)):
        paths.argument_path(path)
    with pytest.raises(ValueError, match=f"^store_dir={re.escape(path)} "):
        paths.check_path("store_dir", path)


def test_a_dollar_that_begins_no_variable_is_a_letter_of_a_name_and_a_bare_program_stays_one(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("KDWATTS_PLACE", "/a")
    assert paths.expanded("cost in $.txt") == "cost in $.txt"
    assert paths.expanded("${KDWATTS_PLACE}/x") == "/a/x"
    assert (paths.expanded("python3"), paths.expanded("./python3")) == ("python3", "./python3")
