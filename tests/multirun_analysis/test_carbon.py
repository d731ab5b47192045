import pytest

from multirun_analysis.carbon import co2e_by_site, co2e_by_site_table
from multirun_analysis.collect import collect
from multirun_analysis.site import all_sites


def test_carbon_is_kwh_times_pue_times_grid_at_each_site(make, tmp_path):
    make.run(
        tmp_path / "0", own_energy_j=3.0e6, inherited_energy_j=0.6e6,
        inherited_energy_by_artifact_j={"teacher-1": 0.6e6},
    )  # fmt: skip
    table = co2e_by_site_table(collect([tmp_path]).runs).set_index("site")
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
    row = co2e_by_site_table(collect([tmp_path]).runs).set_index("site").loc["france"]
    # s = 0.2 MJ / sqrt(2); 12.706 / sqrt(2) of it is 1.2706 MJ.
    assert row["half_width_kg"] == pytest.approx(1.2706 / 3.6 * 0.0594)


def test_estimated_joules_make_open_marks_and_unknown_inheritance_triangles(make, tmp_path):
    make.run(tmp_path / "0", paradigm="sft", student_key="a")
    quality = {"own_energy_quality": "estimated", "inherited_energy_quality": "estimated"}
    make.run(tmp_path / "1", student_key="b", **quality)
    unknown = {"inherited_energy_j": None, "inherited_energy_by_artifact_j": None}
    make.run(tmp_path / "2", paradigm="feature", student_key="c", **unknown)
    fig = co2e_by_site(collect([tmp_path]).runs)
    marks = fig.data[0]
    assert dict(zip(marks.y, marks.marker.symbol, strict=True)) == {
        "sft": "circle",
        "response": "circle-open",
        "feature": "triangle-up",
    }
    assert marks.meta["site"] == "sweden" == marks.name
    assert "building alone" in marks.hovertext[list(marks.y).index("feature")]


def test_sites_are_in_the_order_of_their_grams(make, tmp_path):
    make.run(tmp_path / "0")
    firsts = [trace.x[0] for trace in co2e_by_site(collect([tmp_path]).runs).data]
    assert firsts == sorted(firsts) and len(firsts) == len(all_sites())
