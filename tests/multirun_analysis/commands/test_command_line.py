"""Folders and names of a command line: read as those of a configuration, and never when empty."""

from __future__ import annotations

import pytest

from multirun_analysis.__main__ import main


@pytest.mark.parametrize(
    "words",
    [
        [""],
        ["{runs}", "--out", ""],
        ["{runs}", "--out", "$KDWATTS_NONE/a"],
        ["{runs}", "--readme", ""],
        ["{runs}", "--site", ""],
        ["status", ""],
        ["choose", "", "--tokens-per-day", "1"],
        ["choose", "{runs}", "--tokens-per-day", "1", "--site", ""],
        ["import", "", "--out", "{runs}/out"],
        ["import", "{runs}", "--out", ""],
        ["import", "{runs}", "--out", "{runs}/out", "--teacher", ""],
    ],
    ids=" ".join,
)
def test_what_names_nothing_is_refused_and_nothing_is_written(
    words, run_in, tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("KDWATTS_NONE", raising=False)
    run_in()
    elsewhere = tmp_path.parent / f"{tmp_path.name}-here"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    before = sorted(tmp_path.rglob("*"))
    try:
        assert main([word.format(runs=tmp_path) for word in words]) == 2
    except SystemExit as stop:  # argparse's own.
        assert stop.code == 2
    assert capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_may_stand_before_and_after_options(run_in, tmp_path, capsys):
    run_in("one/0"), run_in("two/0")
    one, two, out = (str(tmp_path / name) for name in ("one", "two", "out"))
    assert main([one, "--out", out, two]) == 0
    assert main(["status", one, "--json", two]) == 0
    main(["choose", one, "--tokens-per-day", "1e9", two])
    said = capsys.readouterr()
    assert "unrecognized" not in said.err and said.out.count('"folder"') == 2
