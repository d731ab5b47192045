"""The page in Markdown: its numbers are those of the tables, and no machine is named."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from multirun_analysis.__main__ import main
from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.differences import differences
from multirun_analysis.narrative.findings import noise_words, served_alike_words
from multirun_analysis.report.export import why_not
from multirun_analysis.report.page import exhibits_of
from multirun_analysis.report.readme_page import figure_names, readme_text

ROOT = Path(__file__).resolve().parents[3]
STUDY = ROOT / "docs" / "study" / "README.md"
ARGUMENTS = "/scratch/me/sweep --readme /home/me/page"


def write_study(make, directory: Path, *, distilled: tuple[float, ...], kept: tuple[float, ...]):
    """Fine-tuning of 100, 110 and 120 J and OM_perf 0.5, 0.6, 0.7, and response of these."""
    shapes = {"sft": ((100.0, 110.0, 120.0), (0.5, 0.6, 0.7)), "response": (distilled, kept)}
    for paradigm, (joules, accuracies) in shapes.items():
        for seed, (own_j, om_perf) in enumerate(zip(joules, accuracies, strict=True)):
            folder = make.run(
                directory / f"{paradigm}-{seed}",
                paradigm=paradigm,
                seed=seed,
                student_key=f"{paradigm}-{seed}",
                own_energy_j=own_j,
                own_energy_quality="estimated",
                own_energy_uncertainty_j=own_j / 2,
                om_perf=om_perf,
                student_bits_per_byte=2.0 + 0.1 * seed,
                inherited_energy_j=0.0,
                inherited_energy_by_artifact_j={},
                student_total_j_per_token=0.02 + 0.001 * seed,
            )
            make.append(folder / "stages.jsonl", [make.stage("distill")])
    return collect([directory])


@pytest.fixture
def collected(make, tmp_path):
    return write_study(
        make, tmp_path / "runs", distilled=(201.0, 210.0, 219.0), kept=(0.6, 0.5, 0.85)
    )


@pytest.fixture
def text(collected):
    shown = exhibits_of(collected)
    drawn = {name: shown[name] for name in figure_names(collected.runs) if name in shown}
    return readme_text(collected, drawn, arguments=ARGUMENTS)


def rows_of(text: str, heading: str) -> dict[str, list[str]]:
    """The first table below a heading: first cell to the others."""
    table = text.split(f"\n## {heading}\n")[1].split("| --- ", 1)[1].split("\n\n")[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()[1:]]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_energy_has_its_interval_over_three_seeds(text):
    """s = 10 J of 100, 110, 120: 4.303 / sqrt(3) of it are 24.8 J; of 201, 210, 219 22.4 J."""
    assert 10 * 4.3027 / math.sqrt(3) == pytest.approx(24.84, abs=0.01)
    rows = rows_of(text, "Quality and energy")
    assert rows["sft"][4] == "110 ± 25 J"
    assert rows["response"][4] == "210 ± 22 J"
    assert rows["response"][8] == "estimated"
    assert rows["sft"][3] == "2.10 ± 0.25"


def test_accuracies_that_seeds_do_not_tell_apart_are_called_noise(collected, text):
    """Differences of 0.1, -0.1 and 0.15 are noise; 101, 100 and 99 J more are not."""
    accuracy, _, energy = noise_words(collected.runs)
    noise = "Accuracy kept against plain fine-tuning (sft): 1 of 1 within noise"
    assert accuracy.startswith(noise)
    # d = 0.05 / 0.132 = 0.38 takes some 57 seeds.
    assert "). More than 50 seeds would decide, if the true difference is the observed" in accuracy
    # s = 1 J: 4.303 / sqrt(3) of it are 2.5 J, 2.3 % of 110 J.
    sure = "against plain fine-tuning (sft): response takes more than sft (+90.9 ± 2.3 %)."
    assert energy == f"Own energy (estimated) {sure}"
    assert noise in text
    assert " | 3 | within noise | more than 50 |" in text
    row = "| response | +100.0 ± 2.5 J | +90.9 ± 2.3 % | below 0.001 | 3 | worse | - |"
    assert f"| own energy (estimated) {row}" in text


def test_only_what_differs_beyond_noise_is_drawn_filled(collected):
    marks = {trace.xaxis: trace for trace in differences(collected.runs).figure.data}
    accuracy, bits, energy = (marks[axis] for axis in ("x", "x2", "x3"))
    # 0.65 against 0.6, nothing of 2.1 bits, and 100 J of 110 J.
    assert [m.x[0] for m in (accuracy, bits, energy)] == pytest.approx([5, 0, 90.91], abs=1e-3)
    assert [m.marker.symbol for m in (accuracy, bits)] == ["square-open"] * 2
    assert energy.marker.symbol == "square"
    assert "More than 50 seeds would decide it" in accuracy.hovertext[0]
    assert energy.error_x.array[0] == pytest.approx(2.258, abs=1e-3)
    assert list(energy.customdata) == [energy.meta["group"]]


def test_students_of_one_architecture_are_served_for_one_number(collected):
    (words,) = served_alike_words(collected.runs)
    # Values that runs share count once: 20, 21 and 22 mJ, 2.5 mJ on either side.
    assert (
        "The 6 students of tiny on h100 have one architecture, so they share one serving energy"
        in words
    )
    assert "21.0 ± 2.5 mJ/token (95 % interval, measured, 3 measurements)." in words
    assert "Single runs measured 20.0 mJ to 22.0 mJ." in words


def test_what_was_run_is_told_as_manifests_and_configurations_say_it(text):
    rows = rows_of(text, "What was run")
    assert rows["Students"] == ["6 of 2 settings"]
    assert rows["Seeds"] == ["0, 1, 2"]
    assert rows["Precision of training"] == ["bf16"]
    assert rows["Machine"] == [
        "1 x NVIDIA H100 80GB HBM3, driver 575.57, AMD EPYC 7763 64-Core Processor, 128 threads"
    ]
    assert rows["Target tokens of each student"] == ["2,000,000"]
    assert rows["Commit"] == ["4169609aa1b2 with uncommitted changes"]


def test_neither_host_nor_folders_are_published_but_the_commands_are(text, tmp_path):
    for private in ("node7", "/scratch", "/home", "/opt", str(tmp_path)):
        assert private not in text
    assert "python -m kdwatts -m hydra.sweep.dir=sweep\n" in text
    assert "python -m multirun_analysis sweep --readme page\n" in text


def test_text_of_a_run_is_no_markup_of_the_page(make, tmp_path):
    evil = "<img src=x>|**a**"
    make.run(tmp_path / "0", paradigm=evil, site=evil, student_key="a")
    found = collect([tmp_path])
    text = readme_text(found, exhibits_of(found), arguments="x")
    assert "<img" not in text.replace("\\<img", "")
    assert "\\<img src=x\\>\\|\\*\\*a\\*\\*" in text


def test_without_a_finished_run_there_is_no_page_and_one_sentence(make, tmp_path, capsys):
    make.run(tmp_path / "0", metrics=None, state=make.status("running"))
    assert main([str(tmp_path), "--readme", str(tmp_path / "page")]) == 2
    assert "no run has finished" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


@pytest.mark.slow
def test_every_figure_that_the_page_shows_lies_beside_it(make, tmp_path):
    if problem := why_not("svg figures"):
        pytest.skip(problem)
    write_study(make, tmp_path / "runs", distilled=(201.0, 210.0, 219.0), kept=(0.6, 0.5, 0.85))
    page_dir = tmp_path / "page"
    assert main([str(tmp_path / "runs"), "--readme", str(page_dir)]) == 0
    first = {path: path.read_bytes() for path in page_dir.rglob("*") if path.is_file()}
    shown = linked(page_dir / "README.md")
    assert shown == {path.relative_to(page_dir).as_posix() for path in first} - {"README.md"}
    assert len(shown) >= 5
    assert main([str(tmp_path / "runs"), "--readme", str(page_dir)]) == 0
    assert {path: path.read_bytes() for path in first} == first


def linked(page: Path) -> set[str]:
    """Files that a page in Markdown refers to."""
    found = re.findall(r"\]\(([^)#]+)", page.read_text("utf-8"))
    return {target for target in found if "://" not in target}


def test_the_committed_study_shows_its_figures_and_quotes_the_commands_of_make():
    text = STUDY.read_text("utf-8")
    figures = linked(STUDY)
    assert figures and all((STUDY.parent / name).is_file() for name in figures)
    drawn = {f"figures/{path.name}" for path in (STUDY.parent / "figures").iterdir()}
    assert drawn == figures
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile.split("\nstudy:")[1].split("\n\n")[0].splitlines()[1:]
    commands = [line.replace("$(BIN)/", "").strip() for line in recipe if "python -m" in line]
    assert len(commands) == 2
    for command in commands:
        assert f"\n{command}\n" in text
    size = sum(path.stat().st_size for path in STUDY.parent.rglob("*") if path.is_file())
    assert size < 600_000
    assert not re.search(r"(?<![\w.])/(work|home|root|tmp|scratch)\b", text)
