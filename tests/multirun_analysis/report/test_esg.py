import re

import pytest

from kdwatts.config.experiment import STAGES
from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.palette import STAGE_COLORS
from multirun_analysis.report.esg_sections import WORK, energy_drawn
from multirun_analysis.statistics.site import Site, site_of
from tests.multirun_analysis.page_words import section_of, words_of

SITE = Site(
    "here", 100.0, 2.0, wue_l_per_kwh=1.5, grid_source="the grid's report", pue_source="a meter"
)


def footprint_of(*directories):
    found = collect(directories)
    return {(line.work, line.energy_class): line for line in energy_drawn(found.runs, found.stages)}


def text_of(collected, site=SITE, tokens_per_day=1e9):
    asked = {"site": site, "tokens_per_day": tokens_per_day}
    html = "".join(section_of(collected, name, **asked) for name in ("footprint", "avoided"))
    return html, words_of(html)


def joules(gpu_j, quality="measured"):
    return {
        "energy_j": {"gpu": gpu_j, "cpu": None, "dram": None},
        "quality": {"gpu": quality, "cpu": "missing", "dram": "missing"},
    }


def test_every_stage_whose_joules_are_counted_has_a_colour_and_is_a_work_of_its_own():
    before = {"prefetch", "plan"}
    of_both = {f"{name}_{who}" for name in ("quantize", "evaluate", "inference", "serving")
               for who in ("student", "teacher")}  # fmt: skip
    counted = {*STAGES, *of_both} - before - {"quantize", "evaluate", "inference", "serving"}
    assert set(WORK) == counted
    assert counted - set(STAGE_COLORS) == {"contamination"}


def test_work_counts_once_and_reuse_costs_nothing(make, tmp_path):
    make.append(
        make.run(tmp_path / "0") / "stages.jsonl",
        [make.stage("shards", key="shards-1", **joules(10e3)), make.stage("distill", key="a")],
    )
    make.append(
        make.run(tmp_path / "1", student_key="b") / "stages.jsonl",
        [make.stage("shards", key="shards-1", outcome="reused", **joules(5.0)),
         make.stage("distill", key="b")],
    )  # fmt: skip
    found = footprint_of(tmp_path)
    assert found["Preparing data", "measured"].energy_j == 10e3
    assert found["Building students", "measured"].energy_j == 2000
    # Both inherited the teacher's 90 kJ, which none of these runs made.
    assert found["Inherited from earlier work", "measured"].energy_j == 90e3


def test_attempts_that_failed_count(make, tmp_path):
    rows = [make.stage("distill", outcome="failed"), make.stage("distill", attempt=2)]
    state = make.status("failed", error="boom")
    make.append(make.run(tmp_path / "0", metrics=None, state=state) / "stages.jsonl", rows)
    line = footprint_of(tmp_path)["Building students", "measured"]
    assert (line.energy_j, line.num_windows) == (2000, 2)


def test_estimated_and_measured_work_are_lines_and_sums_of_their_own(make, tmp_path):
    rows = [make.stage("distill"), make.stage("shards", **joules(500.0, "estimated"))]
    changes = {"inherited_energy_j": 0.0, "inherited_energy_by_artifact_j": {}}
    make.append(make.run(tmp_path / "0", **changes) / "stages.jsonl", rows)
    found = footprint_of(tmp_path)
    assert set(found) == {("Building students", "measured"), ("Preparing data", "estimated")}
    html, _ = text_of(collect([tmp_path]))
    assert html.count('class="sum"') == 2


def test_a_window_without_a_figure_is_missing_and_not_zero(make, tmp_path):
    rows = [make.stage("distill", **joules(None, "missing"))]
    make.append(make.run(tmp_path / "0") / "stages.jsonl", rows)
    line = footprint_of(tmp_path)["Building students", "missing"]
    assert line.energy_j is None and line.num_windows == 1


def test_kwh_overhead_carbon_and_water_follow_from_the_site_with_its_sources(make, tmp_path):
    changes = {"inherited_energy_j": 0.0, "inherited_energy_by_artifact_j": {}}
    rows = [make.stage("distill", **joules(7.2e6))]
    make.append(make.run(tmp_path / "0", **changes) / "stages.jsonl", rows)
    _, text = text_of(collect([tmp_path]))
    # 2 kWh of computers, 4 with PUE 2, 0.4 kg at 100 g/kWh, 3 L at 1.5 L a kWh of computers.
    assert "Building students measured 1 2.00 4.00 0.400 3.00" in text
    assert "100 gCO2e/kWh: the grid's report" in text and "PUE 2: a meter" in text


def test_without_a_common_site_there_are_kwh_and_no_carbon(make, tmp_path):
    make.append(make.run(tmp_path / "0") / "stages.jsonl", [make.stage("distill")])
    _, text = text_of(collect([tmp_path]), site=None)
    assert "Choose one site with --site." in text
    assert re.search(r"Building students measured 1 0\.000278 - - -", text)


def test_co2e_of_runs_whose_factors_count_unlike_things_is_not_added(make, tmp_path):
    changes = {"inherited_energy_j": 0.0, "inherited_energy_by_artifact_j": {}}
    for index, boundary in enumerate(("combustion", "lifecycle")):
        facts = {"grid_basis": "generation", "grid_kind": "average", "grid_gases": "co2e"}
        facts |= {"site": f"at-{boundary}", "grid_boundary": boundary}
        folder = make.run(tmp_path / str(index), student_key=str(index), **changes, **facts)
        make.append(folder / "stages.jsonl", [make.stage("distill", **joules(3.6e6))])
    _, text = text_of(collect([tmp_path]), site=None)
    assert "Sum measured 2 2.00 - - -" in text
    assert (
        "The runs state 2 sites: at-combustion and at-lifecycle. Their factors count different "
        "things (combustion alone, generation, average, CO2e; life cycle, generation, average, "
        "CO2e). Each run has the CO2e of its own site. CO2e is not added, averaged or ranked over "
        "sites. Choose one site with --site." in text
    )
    _, text = text_of(collect([tmp_path]))
    assert "Sum measured 2 2.00 4.00 0.400 3.00" in text


def test_what_the_factor_counts_and_where_it_is_from_stand_beside_it(make, tmp_path):
    make.append(make.run(tmp_path / "0") / "stages.jsonl", [make.stage("distill")])
    _, text = text_of(collect([tmp_path]), site=site_of("texas"))
    assert (
        "The factor counts combustion alone, generation, average, CO2e; year 2023, release" in text
    )
    _, text = text_of(collect([tmp_path]))
    assert "The factor counts contents of the factor unstated; year unstated" in text


def test_runs_that_state_no_site_are_said_to_be_counted_at_the_others(make, tmp_path):
    make.append(make.run(tmp_path / "0") / "stages.jsonl", [make.stage("distill")])
    make.run(tmp_path / "1", student_key="b", site=None, grid_gco2e_per_kwh=None, pue=None)
    _, text = text_of(collect([tmp_path]))
    assert "1 of 2 runs state no site. Their energy counts at this site too." in text


def test_avoided_emissions_deduct_building_and_state_what_is_assumed(make, tmp_path):
    folder = make.run(
        tmp_path / "0", own_energy_j=3.6e6, inherited_energy_j=0.0,
        inherited_energy_by_artifact_j={},
    )  # fmt: skip
    make.serving(folder, student=[1.0] * 3, teacher=[3.0] * 3)
    _, text = text_of(collect([tmp_path]), tokens_per_day=36_000)
    # 365 days of 36,000 tokens save 2 J each: 7.3 kWh, less the 1 kWh of building.
    assert "6.30" in text
    # 6.3 kWh, PUE 2, 100 g/kWh.
    assert "1.26" in text
    for assumption in ("365 days", "same device", "Demand does not grow", "nor an offset"):
        assert assumption in text


def test_what_may_be_avoided_has_the_interval_of_its_joules(make, tmp_path):
    """7.3 kWh less 1 kWh of building, both measured within 5 %, and 1 % of building apart:
    6.3 kWh +- 0.02 without calibration, times exp(+- 1.96 x 5 %) with it: 5.71 to 6.95."""
    folder = make.run(
        tmp_path / "0", own_energy_j=3.6e6, own_energy_random_sd_j=0.0,
        own_energy_shared_sd_j=0.18e6, inherited_energy_j=0.0, inherited_energy_by_artifact_j={},
    )  # fmt: skip
    make.serving(folder, student=[1.0] * 3, teacher=[3.0] * 3)
    found = collect([tmp_path])
    found.runs["student_served_shared_sd_j"], found.runs["teacher_served_shared_sd_j"] = 0.05, 0.15
    _, text = text_of(found, tokens_per_day=36_000)
    assert "6.30 5.71 to 6.95 1.26 1.14 to 1.39" in text


def test_what_a_year_does_not_tell_from_nothing_is_not_said_to_be_avoided(make, tmp_path):
    """Building drew 7.3 kWh, known to 1 % apart from serving, and a year saves 7.3 kWh."""
    folder = make.run(
        tmp_path / "0", own_energy_j=7.3 * 3.6e6, inherited_energy_j=0.0,
        own_energy_random_sd_j=0.0, own_energy_shared_sd_j=1e6, inherited_energy_by_artifact_j={},
    )  # fmt: skip
    make.serving(folder, student=[1.0] * 3, teacher=[3.0] * 3)
    _, text = text_of(collect([tmp_path]), tokens_per_day=36_000)
    assert re.search(r"response 93\.0 % \(interval unknown\) unresolved - measured", text)


def test_a_student_that_saves_nothing_avoids_nothing(make, tmp_path):
    make.serving(make.run(tmp_path / "0"), student=[4.0] * 3, teacher=[3.0] * 3)
    _, text = text_of(collect([tmp_path]))
    assert re.search(r"response 93\.0 % \(interval unknown\) never - measured", text)


@pytest.mark.parametrize("tokens_per_day", [1e3, 1e12])
def test_the_assumed_demand_is_said(make, tmp_path, tokens_per_day):
    make.run(tmp_path / "0")
    _, text = text_of(collect([tmp_path]), tokens_per_day=tokens_per_day)
    assert ("1,000 tokens a day" in text) == (tokens_per_day == 1e3)
