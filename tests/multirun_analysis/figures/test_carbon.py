import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.carbon import co2e_by_site
from multirun_analysis.statistics.site import Site, all_sites, site_of


def test_carbon_is_kwh_times_pue_times_grid_at_each_site(make, tmp_path):
    make.run(
        tmp_path / "0", own_energy_j=3.0e6, inherited_energy_j=0.6e6,
        inherited_energy_by_artifact_j={"teacher-1": 0.6e6},
    )  # fmt: skip
    table = co2e_by_site(collect([tmp_path]).runs).table.set_index("site")
    assert set(table.index) == {site.name for site in all_sites()}
    assert {"world", "france", "sweden"} <= set(table.index)
    # 3.6 MJ are one kWh: 1.35 x 44 g.
    assert table.loc["france", "co2e_kg"] == pytest.approx(0.0594)


def test_seeds_give_an_interval_of_the_joules_alone(make, tmp_path):
    for seed, joules in enumerate((3.5e6, 3.7e6)):
        make.run(
            tmp_path / str(seed), seed=seed, student_key=f"s{seed}", own_energy_j=joules,
            inherited_energy_j=0.0, inherited_energy_by_artifact_j={},
        )  # fmt: skip
    row = co2e_by_site(collect([tmp_path]).runs).table.set_index("site").loc["france"]
    # s = 0.2 MJ / sqrt(2); 12.7062 / sqrt(2) of it is 1.27062 MJ.
    assert row["half_width_kg"] == pytest.approx(1.27062 / 3.6 * 0.0594)


def test_estimated_joules_make_open_marks_and_unknown_inheritance_triangles(make, tmp_path):
    make.run(tmp_path / "0", paradigm="sft", student_key="a")
    quality = {"own_energy_quality": "estimated", "inherited_energy_quality": "estimated"}
    make.run(tmp_path / "1", student_key="b", **quality)
    unknown = {"inherited_energy_j": None, "inherited_energy_by_artifact_j": None}
    make.run(tmp_path / "2", paradigm="feature", student_key="c", **unknown)
    fig = co2e_by_site(collect([tmp_path]).runs).figure
    marks = fig.data[0]
    assert dict(zip(marks.y, marks.marker.symbol, strict=True)) == {
        "sft": "circle",
        "response": "circle-open",
        "feature": "triangle-up",
    }
    assert marks.meta["site"] == "sweden" == marks.name
    assert "building alone" in marks.hovertext[list(marks.y).index("feature")]


def test_sites_of_a_panel_are_in_the_order_of_their_grams(make, tmp_path):
    make.run(tmp_path / "0")
    fig = co2e_by_site(collect([tmp_path]).runs).figure
    firsts = [trace.x[0] for trace in fig.data if trace.xaxis == "x"]
    assert firsts == sorted(firsts) and len(fig.data) == len(all_sites())


def test_texas_counts_combustion_and_has_a_panel_of_its_own(make, tmp_path):
    make.run(tmp_path / "0")
    runs = collect([tmp_path]).runs
    fig = co2e_by_site(runs).figure
    panels = {trace.name: trace.xaxis for trace in fig.data}
    assert {name for name, axis in panels.items() if axis == "x2"} == {"texas"}
    assert {"usa", "world", "france"} < {name for name, axis in panels.items() if axis == "x"}
    first, second = (axis.title.text for axis in (fig.layout.xaxis, fig.layout.xaxis2))
    assert first.endswith("<br>life cycle, generation, average, CO2e")
    assert second.endswith("<br>combustion alone, generation, average, CO2e")
    table = co2e_by_site(runs).table.set_index("site")
    assert table.loc["texas", "grid_boundary"] == "combustion"
    assert table.loc["usa", "grid_boundary"] == "lifecycle"
    assert (table.loc["texas", "grid_year"], table.loc["usa", "grid_year"]) == (2023, 2024)
    assert list(table.columns[-7:]) == [
        *("grid_boundary", "grid_basis", "grid_kind", "grid_gases"),
        *("grid_year", "grid_release", "grid_licence"),
    ]


def test_factors_that_leave_unstated_what_they_count_share_no_panel(make, tmp_path):
    make.run(tmp_path / "0")
    sites = [Site("here", 100.0, 1.1), Site("there", 200.0, 1.1), site_of("france")]
    fig = co2e_by_site(collect([tmp_path]).runs, sites).figure
    assert sorted(trace.xaxis for trace in fig.data) == ["x", "x2", "x3"]
    titles = [fig.layout[axis].title.text for axis in ("xaxis", "xaxis2", "xaxis3")]
    assert any("here alone: contents of the factor unstated" in t for t in titles)


def test_one_site_that_is_asked_for_is_named_and_stands_alone(make, tmp_path):
    make.run(tmp_path / "0")
    runs = collect([tmp_path]).runs
    fig = co2e_by_site(runs, [site_of("france")]).figure
    assert [trace.name for trace in fig.data] == ["france"]
    assert "building one student at france, " in fig.layout.xaxis.title.text
    assert set(co2e_by_site(runs, [site_of("france")]).table["site"]) == {"france"}
