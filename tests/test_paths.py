from __future__ import annotations

from pathlib import Path

import pytest

from kdwatts import paths


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
