"""One page has one site: what it says of CO2e, water and price is computed at that one."""

from __future__ import annotations

import re

import pytest

from multirun_analysis.__main__ import main
from multirun_analysis.collect.collection import collect
from multirun_analysis.collect.siting import at_site
from multirun_analysis.narrative.caveats import caveats
from multirun_analysis.narrative.findings import result_rows
from multirun_analysis.narrative.site_words import site_words
from multirun_analysis.report.page import PROFILES, exhibits_of, report_html
from multirun_analysis.report.readme_page import figure_names, readme_text
from multirun_analysis.statistics.site import GRID, Site, site_of
from multirun_analysis.values.rows import distinct_students, to_rows
from tests.multirun_analysis.page_words import words_of

FRANCE = site_of("france")
GRAMS = 44.0 * 1.35  # Of a kilowatt hour in France.


def record_of(site: Site) -> dict:
    names = ("grid_gco2e_per_kwh", "pue", "wue_l_per_kwh", "grid_source", *GRID)
    return {"site": site.name} | {name: getattr(site, name) for name in names}


@pytest.fixture
def two_sites(make, tmp_path):
    """A run of 3.6 MJ at world and one of 7.2 MJ in Texas, whose factors count unlike things."""
    for index, (name, joules) in enumerate((("world", 3.6e6), ("texas", 7.2e6))):
        site = site_of(name)
        kwh = joules / 3.6e6
        folder = make.run(
            tmp_path / "runs" / f"{index}-{name}",
            paradigm=("sft", "response")[index],
            student_key=name,
            own_energy_j=joules,
            inherited_energy_j=0.9e6,
            inherited_energy_by_artifact_j={"teacher-1": 0.9e6},
            co2e_kg=kwh * site.pue * site.grid_gco2e_per_kwh / 1000,
            total_co2e_kg=1.0,
            cost_usd=1.0,
            **record_of(site),
        )
        make.append(folder / "stages.jsonl", [make.stage("distill", key=name)])
    return tmp_path / "runs"


def test_all_that_depends_on_a_site_is_computed_anew_from_joules(two_sites):
    sited = at_site(collect([two_sites]), FRANCE)
    world, texas = to_rows(sited.runs)
    assert world["co2e_kg"] == pytest.approx(GRAMS / 1000)
    assert texas["co2e_kg"] == pytest.approx(2 * GRAMS / 1000)
    # 3.6 and 0.9 MJ are 1.25 kWh.
    assert world["total_co2e_kg"] == pytest.approx(1.25 * GRAMS / 1000)
    assert texas["cost_usd"] == pytest.approx(2 * 1.35 * 0.179)
    assert texas["water_l"] == pytest.approx(2 * 0.12)
    assert {run["site"] for run in (world, texas)} == {"france"}
    assert (world["grid_boundary"], texas["grid_year"]) == ("lifecycle", 2024)
    assert [run["recorded_site"] for run in (world, texas)] == ["world", "texas"]


def test_columns_keep_their_types_and_a_second_time_changes_nothing(two_sites):
    collected = collect([two_sites])
    once = at_site(collected, FRANCE)
    kept = [name for name in collected.runs if name not in ("site", "grid_source", *GRID)]
    assert dict(once.runs[kept].dtypes) == dict(collected.runs[kept].dtypes)
    assert at_site(once, FRANCE).runs.equals(once.runs)
    assert list(collected.runs["site"]) == ["world", "texas"]


def test_what_is_not_known_stays_unknown_at_another_site(make, tmp_path):
    unknown = dict.fromkeys(("own_energy_j", "site", "grid_gco2e_per_kwh", "pue", "co2e_kg"))
    make.run(tmp_path / "0", **unknown)
    (run,) = to_rows(at_site(collect([tmp_path]), Site("here", 100.0, 1.0)).runs)
    for column in ("co2e_kg", "total_co2e_kg", "cost_usd", "water_l", "recorded_site"):
        assert run[column] is None, column
    make.run(tmp_path / "1", student_key="b")
    (_, run) = to_rows(at_site(collect([tmp_path]), Site("here", 100.0, 1.0)).runs)
    assert run["cost_usd"] is None and run["water_l"] is None
    assert run["co2e_kg"] == pytest.approx(400e3 / 3.6e6 * 0.1)


def test_a_record_of_the_same_site_is_no_other(make, tmp_path):
    make.run(tmp_path / "0", **record_of(FRANCE))
    text = site_words(to_rows(at_site(collect([tmp_path]), FRANCE).runs))
    assert text == "CO2e, water and price on this page are for site france."
    make.run(tmp_path / "1", student_key="b", **record_of(FRANCE) | {"pue": 1.0})
    text = site_words(to_rows(at_site(collect([tmp_path]), FRANCE).runs))
    assert text.endswith(" The runs themselves state france with other figures.")


def test_old_and_new_records_of_one_site_are_told_apart_in_a_sentence(make, tmp_path):
    old = dict.fromkeys(("grid_source", *GRID))
    make.run(tmp_path / "0", **record_of(FRANCE))
    make.run(tmp_path / "1", student_key="b", **record_of(FRANCE) | old)
    assert site_words(to_rows(collect([tmp_path]).runs)) == (
        "The runs state 2 grid factors, of france. Their factors count different things (life "
        "cycle, generation, average, CO2e; contents of the factor unstated). Each run has the CO2e "
        "of its own site. CO2e is not added, averaged or ranked over sites. Choose one site with "
        "--site."
    )


FOREIGN = ("473", "334", "1.56", "combustion", "eGRID", "Uptime", "usa", "sweden", "384")
"""Figures and words of other sites' factors."""


def foreign_in(text: str) -> list[str]:
    return [word for word in FOREIGN if re.search(rf"(?<![\w.-]){re.escape(word)}\b", text)]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_page_at_one_site_has_nothing_of_another_s_factor(two_sites, profile):
    collected = collect([two_sites])
    text = words_of(report_html(collected, profile=profile, site=FRANCE))
    said = "CO2e, water and price on this page are for site france. The runs themselves state"
    assert f"{said} texas and world." in text
    assert "CO2e at france" in text and "59.4 g" in text and "119 g" in text
    assert "building one student at france" in text
    assert not foreign_in(text)
    assert "CO2e at the site of each run's record" in text
    assert "france: 44 gCO2e/kWh, PUE 1.35, life cycle, generation, average, CO2e" in text


def test_a_page_of_several_sites_names_each_run_s_and_ranks_none(two_sites):
    text = words_of(report_html(collect([two_sites]), profile="esg"))
    assert "The runs state 2 sites: texas and world. Their factors count different things (" in text
    assert "CO2e at each run's site" in text
    assert "738 g world, life cycle " in text
    assert "735 g texas, combustion alone " in text
    assert "Sum measured 3 0.251 - - -" in text


def test_the_page_in_markdown_has_the_same_site(two_sites):
    collected = at_site(collect([two_sites]), FRANCE)
    shown = exhibits_of(collected, FRANCE)
    drawn = {name: shown[name] for name in figure_names(collected.runs) if name in shown}
    text = readme_text(collected, drawn, arguments="x --site france")
    assert "are for site france. The runs themselves state texas and world." in text
    assert "| Electricity | france: 44 gCO2e/kWh, PUE 1.35, life cycle," in text
    assert "59.4 g" in text and "119 g" in text
    assert not foreign_in(text)


def test_a_mean_of_unlike_factors_is_withheld(two_sites):
    collected = collect([two_sites])
    heads, rows = result_rows(distinct_students(collected.runs))
    assert [row[heads.index("CO2e")] for row in rows][:2] == ["-", "-"]
    sited = at_site(collected, FRANCE)
    heads, rows = result_rows(distinct_students(sited.runs))
    assert [row[heads.index("CO2e")] for row in rows][:2] == ["59.4 g", "119 g"]
    carbon = dict(caveats(collected))["Carbon"]
    assert "CO2e is not added, averaged or ranked over sites." in carbon
    assert "texas: 334.1 gCO2e/kWh, PUE 1.1, combustion alone, generation, average, CO2e" in carbon
    assert "year 2023, release eGRID2023 revision 2, licence unstated" in carbon


def test_old_records_have_one_site_that_leaves_unstated_what_it_counts(make, tmp_path):
    for index in range(2):
        make.run(tmp_path / str(index), student_key=str(index), seed=index)
    collected = collect([tmp_path])
    heads, (row, *_) = result_rows(distinct_students(collected.runs))
    assert row[heads.index("CO2e")].startswith("52.8")
    carbon = dict(caveats(collected))["Carbon"]
    assert "contents of the factor unstated, year unstated" in carbon
    assert carbon.endswith("CO2e, water and price on this page are for site world.")


def test_the_command_line_puts_page_and_tables_at_the_site_and_leaves_records_alone(
    two_sites, tmp_path, capsys
):
    assert main([str(two_sites), "--out", str(tmp_path / "out"), "--site", "france"]) == 0
    capsys.readouterr()
    assert "are for site france. The runs themselves" in words_of(
        (tmp_path / "out" / "report.html").read_text()
    )
    table = (tmp_path / "out" / "tables" / "co2e_by_site.csv").read_text()
    assert "france" in table and "world" not in table
    assert "texas" in (tmp_path / "out" / "runs.csv").read_text()
