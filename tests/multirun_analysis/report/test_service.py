"""What to serve at a load: the page, beside `choose`, and beside the answer worked out by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multirun_analysis.__main__ import main
from multirun_analysis.collect.collection import Collected, collect
from multirun_analysis.figures.fleet_over_load import fleet_over_load
from multirun_analysis.figures.looks import Look
from multirun_analysis.report.page import exhibits_of, report_html
from multirun_analysis.report.study import Service, Study
from multirun_analysis.statistics.operating_point import Limits, of_log, of_rate
from multirun_analysis.statistics.rent import Rent
from multirun_analysis.statistics.site import Site
from tests.multirun_analysis.page_words import own_html, section_of, words_of
from tests.multirun_analysis.written_candidates import (
    DAY,
    LIMITS,
    STUDENT,
    STUDENT_W,
    TEACHER,
    served,
    write_candidates,
    write_log,
    write_served_run,
)
from tests.multirun_analysis.written_serving import write_under_load

HERE = Site("here", 400.0, 1.3, price_usd_per_kwh=0.12, wue_l_per_kwh=1.1)
BY_DAY = Service(of_log(DAY, Limits(0.5, 0.05)), Rent(2.5))


@pytest.fixture(scope="module")
def one_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student and its teacher, as docs/how_to/size_a_service.md has them."""
    directory = tmp_path_factory.mktemp("one")
    write_served_run(directory / "0")
    return directory


@pytest.fixture(scope="module")
def one(one_dir: Path) -> Collected:
    return collect([one_dir])


@pytest.fixture(scope="module")
def several_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_candidates(tmp_path_factory.mktemp("several"))


@pytest.fixture(scope="module")
def several(several_dir: Path) -> Collected:
    return collect([several_dir])


def words(collected: Collected, service: Service = BY_DAY, **asked: Any) -> str:
    shown = exhibits_of(collected, HERE, service)
    asked = {"shown": shown, "site": HERE, "service": service} | asked
    return words_of(section_of(collected, "service", **asked))


def test_the_page_has_the_numbers_of_the_answer_that_the_docs_work_out_by_hand(one):
    text = words(one)
    student, teacher = (
        re.findall(rf"{name} .*?water", text.partition("What each candidate needs")[2])[0]
        for name in ("response", "teacher")
    )
    assert " 2 2 GPUs 95.0 J " in student and " 240 W 1.19 0.0165 electricity 13.7 mg " in student
    assert " 4 4 GPUs 246 J " in teacher and " 600 W 2.38 0.0427 electricity 35.6 mg " in teacher
    repaid = text.partition("When building is repaid")[2]
    assert "720 MJ" in repaid and "4.75 million 4.61 million to 4.9 million" in repaid
    assert "4.04 billion 3.92 billion to 4.17 billion 11.8 11.4 to 12.2" in repaid


def test_the_first_two_sentences_say_what_on_how_many_gpus_of_which_kind_and_how_sure(one):
    page = report_html(one, profile="provider", site=HERE, service=BY_DAY)
    headline = words_of(re.findall("<h1>.*?</h1>", page)[0]).replace("\u00a0", " ").strip()
    assert headline.startswith(
        "Serve response on 2 replicas, each on NVIDIA H100 80GB HBM3 (2 GPUs)"
    )
    section = page.partition('<section id="service">')[2]
    leads = [words_of(lead).replace("\u00a0", " ").strip()
             for lead in re.findall('<p class="lead">.*?</p>', section)]  # fmt: skip
    assert leads[:2] == [headline, "Settled."]


@pytest.mark.parametrize(
    "load", [("--rate", "6"), ("--rate", "4", "--peak-factor", "3", *LIMITS)], ids=" ".join
)
def test_the_page_says_every_sentence_that_choose_says_for_the_same_options(
    several_dir, tmp_path, capsys, load
):
    asked = (*load, "--price-per-card-hour", "2.5", "--site", "france")
    main(["choose", str(several_dir), *asked])
    lines = capsys.readouterr().out.splitlines()
    main([str(several_dir), "--profile", "provider", "--out", str(tmp_path), *asked])
    page = (tmp_path / "report_provider.html").read_text("utf-8")
    section = page.partition('<section id="service">')[2].partition("</section>")[0]
    said = words_of(section).replace("\u00a0", " ")
    assert len(lines) > 8
    assert [line for line in lines if " ".join(line.split()) not in said] == []


def test_a_log_gives_the_page_its_hours_and_none_of_its_text(one_dir, tmp_path, capsys):
    secret = "the patient of room seven"
    log = write_log(tmp_path / "log.jsonl", {60.0: 4.0, 120.0: 1.0}, text=secret)
    out = tmp_path / "out"
    asked = ["--profile", "provider", "--replay", str(log), *LIMITS, "--out", str(out)]
    assert main([str(one_dir), *asked]) == 0
    printed = capsys.readouterr()
    assert "patient" not in printed.out + printed.err
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if b"patient" in path.read_bytes()] == []
    page = words_of((out / "report_provider.html").read_text("utf-8"))
    assert "Prompts: the log has texts and no lengths." in page
    table = (out / "tables/traffic_by_hour.csv").read_text()
    assert table.startswith("from_h,duration_s,requests_per_s")


def test_without_a_load_the_page_is_the_year_of_the_eager_loop_and_says_how_to_give_one(
    make, tmp_path
):
    folder = make.run(tmp_path / "0")
    make.serving(folder, student=[0.02], teacher=[0.1])
    found = collect([tmp_path])
    page = report_html(found, profile="provider", site=HERE)
    assert 'id="service"' not in page and 'id="provider"' in page
    text = words_of(section_of(found, "provider", site=HERE))
    assert "A year of 1 billion tokens a day" in text and "not that of a server under load" in text
    assert "--rate or --replay says in this place what to serve at that load" in text


def test_with_a_load_there_is_no_year_of_the_eager_loop_beside_it(one):
    assert section_of(one, "provider", site=HERE, service=BY_DAY) == ""


def test_a_candidate_without_a_capacity_has_dashes_and_its_reason_below(several):
    text = words(several)
    row = text.partition("What each candidate needs")[2]
    row = row.partition("response · a_teacher_with_a_long_name_8b_to_3b")[2]
    assert row.split()[:8] == ["-"] * 8
    unknown = text.partition("What is not known")[2]
    assert "no rate that was tried keeps the latency asked for" in unknown


def test_without_a_rent_or_a_site_the_page_says_what_to_give(one):
    text = words(one, Service(BY_DAY.point), site=None)
    assert "No rent is known: give --price-per-card-hour." in text
    assert "choose a site with --site" in text


def test_a_site_file_of_the_readers_own_gives_its_price_and_water(one):
    assert "at site here: 0.12 USD/kWh, 400 gCO2e/kWh, PUE 1.3, 1.1 l/kWh." in words(one)


def test_an_estimate_has_a_sign_and_no_parked_power(tmp_path):
    guessed = [replace(point, energy_quality="estimated") for point in STUDENT.points]
    guessed = [replace(p, power_w=replace(p.power_w, quality="estimated")) for p in guessed]
    write_served_run(tmp_path / "0", replace(STUDENT, points=guessed), TEACHER)
    text = words(collect([tmp_path])).partition("What each candidate needs")[2]
    assert "† estimated, not measured." in text
    row = text.partition("response")[2].partition("teacher")[0]
    assert " J† " in row and " W " not in row


def test_servers_without_a_run_have_a_row_each_and_no_recommendation(tmp_path):
    write_under_load(tmp_path / "served", replace(STUDENT, subject="model", key=None))
    found = collect([tmp_path])
    page = report_html(found, profile="provider", service=Service(BY_DAY.point))
    text = words_of(page.partition('<section id="service">')[2])
    assert "No recommendation: nothing was measured that can be held against its teacher." in text
    assert "it was measured without a run, so what it keeps is not known" in text
    assert " 2 2 GPUs 95.0 J " in text


# The figure.


def _figure(collected: Collected, service: Service = BY_DAY) -> Any:
    return exhibits_of(collected, HERE, service)["fleet_over_load"].figure


def test_your_load_is_marked_at_the_mean_rate_and_the_joules_of_the_whole_log(one):
    table = exhibits_of(one, HERE, BY_DAY)["fleet_over_load"].table
    yours = table[table["at"] == "your load"].set_index("subject")
    assert dict(yours["j_per_request"]) == pytest.approx({"student": 95.0, "teacher": 246.42857})
    assert list(yours["requests_per_s"]) == pytest.approx([403_200 / 86_400] * 2)


def test_the_bar_of_a_fleet_stands_at_its_replicas_times_their_capacity(one):
    table = exhibits_of(one, HERE, BY_DAY)["fleet_over_load"].table
    most = table[table["at"] == "capacity"].set_index("subject")
    assert dict(most["requests_per_s"]) == {"student": 20.0, "teacher": 16.0}
    # 480 W at 10 a second, and 500 W at 4.
    assert dict(most["j_per_request"]) == {"student": 48.0, "teacher": 125.0}


def test_settings_that_share_their_servers_are_one_line_that_names_them(several):
    lines = [trace.name for trace in _figure(several).data if trace.mode == "lines"]
    assert "response · tiny, feature · tiny, sft · tiny" in lines
    assert "teacher of a_teacher_w…h_a_long_name_8b_to_3b" in lines
    assert sum("response" in name for name in lines) == 1


def test_the_mean_and_the_peak_are_lines_across_the_figure(one):
    figure = _figure(one)
    assert [shape.x0 for shape in figure.layout.shapes] == [403_200 / 86_400, 12.0]
    flat = _figure(one, Service(of_rate(6.0, Limits(0.5, 0.05))))
    assert [shape.x0 for shape in flat.layout.shapes] == [6.0]


def test_a_line_begins_at_the_least_load_of_the_log_and_ends_at_the_greatest_measured_one(one):
    for trace in _figure(one).data:
        if trace.mode == "lines":
            greatest = 16.0 if trace.name == "teacher" else 20.0
            assert (min(trace.x), max(trace.x)) == pytest.approx((2.0, greatest))


def test_a_fleet_without_joules_has_no_line(several):
    study = Study(several, {}, HERE, service=BY_DAY)
    assert study.fleet_choice is not None
    lacking = [f for f in study.fleet_choice.fleets.values() if f.why_not]
    assert len(lacking) == 1
    assert fleet_over_load(lacking, lambda group: Look(group, "#000", "circle", "solid")).is_empty


# The command.


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--rate", "0"], "--rate 0 is no load; give a number above 0"),
        (["--rate", "4", "--peak-factor", "0.5"], "--peak-factor 0.5 is below 1"),
        (["--rate", "4", "--slo-ttft-p99-s", "-1"], "--slo-ttft-p99-s -1 is no limit"),
        (["--rate", "4", "--price-per-card-hour", "x"], "that is no price above 0"),
        (["--slo-tpot-p99-s", "0.05"], "--slo-tpot-p99-s was given without a load; give --rate or"),
        (["--replay", "/nowhere/log.jsonl"], "/nowhere/log.jsonl"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_one_sentence_and_nothing_is_written(
    one_dir, tmp_path, capsys, asked, said
):
    out = tmp_path / "out"
    assert main([str(one_dir), "--profile", "provider", "--out", str(out), *asked]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not out.exists()


def test_two_loads_at_once_are_refused(one_dir, capsys):
    with pytest.raises(SystemExit) as refused:
        main([str(one_dir), "--rate", "2", "--tokens-per-day", "1e9"])
    assert refused.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_a_load_for_the_page_of_another_reader_is_refused(one_dir, tmp_path, capsys):
    assert main([str(one_dir), "--rate", "2", "--out", str(tmp_path / "out")]) == 2
    said = "--rate was given with --profile research, whose page has no answer for a load; give "
    assert f"{said}--profile provider" in capsys.readouterr().err


def test_where_no_server_was_measured_the_page_is_that_of_the_loop_and_says_why(
    make, tmp_path, capsys
):
    make.serving(make.run(tmp_path / "runs" / "0"), student=[0.02], teacher=[0.1])
    asked = ["--profile", "provider", "--rate", "4", "--out", str(tmp_path / "out")]
    assert main([str(tmp_path / "runs"), *asked]) == 1
    assert "no answer at this load: no server was measured under load" in capsys.readouterr().err
    page = (tmp_path / "out" / "report_provider.html").read_text("utf-8")
    assert 'id="provider"' in page and 'id="service"' not in page


def test_limits_that_nobody_gives_are_those_of_the_measurements(one_dir, tmp_path, capsys):
    asked = ["--profile", "provider", "--rate", "4", "--out", str(tmp_path)]
    assert main([str(one_dir), *asked]) == 0
    text = words_of((tmp_path / "report_provider.html").read_text("utf-8"))
    assert "the first token within 0.5 s and each later token within 0.05 s" in text


# The browser.


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_long_names_and_the_widest_table_fit_the_window(several, visit, width):
    page = visit(report_html(several, profile="provider", site=HERE, service=BY_DAY), width=width)
    assert page.said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_a_recommended_setting_with_a_name_of_60_letters_fits_a_phone(tmp_path, visit):
    write_served_run(tmp_path / "0", model="ü" + "Modell_" * 8 + "xyz")
    write_served_run(tmp_path / "1", served("student", STUDENT_W, 9.0, error_w=2.0, key="b"),
                     TEACHER, model="short")  # fmt: skip
    found = collect([tmp_path])
    page = visit(report_html(found, profile="provider", site=HERE, service=BY_DAY), width=390)
    assert "Modell_Modell_" in page.inner_text("#service .lead")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_names_from_run_folders_are_text_on_the_page(tmp_path):
    named = "<b>8b</b>_to_1b"
    write_served_run(tmp_path / "0", STUDENT, TEACHER, model=named)
    page = own_html(report_html(collect([tmp_path]), profile="provider", service=BY_DAY))
    assert "<b>8b</b>" not in page
