from dataclasses import replace

import pytest

from kdwatts.runtime.paths import conf_dir
from multirun_analysis.collect.collection import collect
from multirun_analysis.statistics.site import (
    GRID,
    Site,
    all_sites,
    common_site,
    counts_words,
    site_of,
    stated_sites,
)
from multirun_analysis.values.rows import to_rows


def test_every_shipped_site_states_its_grid_factor_and_pue_with_a_source():
    sites = all_sites()
    assert {site.name for site in sites} == {p.stem for p in (conf_dir() / "site").glob("*.yaml")}
    for site in sites:
        assert site.grid_gco2e_per_kwh > 0 and site.pue >= 1, site.name
        assert site.grid_source and site.pue_source, site.name
        assert site.price_usd_per_kwh is None or site.price_source, site.name


def test_the_figures_of_a_site_are_those_of_its_file():
    text = (conf_dir() / "site" / "france.yaml").read_text()
    site = site_of("france")
    assert f"grid_gco2e_per_kwh: {site.grid_gco2e_per_kwh:g}" in text
    assert f"price_usd_per_kwh: {site.price_usd_per_kwh:g}" in text


def test_an_unknown_site_lists_those_there_are():
    with pytest.raises(ValueError, match=r"--site mars: there is no such site; choose one of .*fr"):
        site_of("mars")


def test_a_file_of_one_s_own_is_a_site_that_has_the_file_s_name(tmp_path):
    path = tmp_path / "our_room.yaml"
    path.write_text("grid_gco2e_per_kwh: 120\npue: 1.4\nprice_usd_per_kwh: 0.2\n")
    assert site_of(str(path)) == Site("our_room", 120.0, 1.4, price_usd_per_kwh=0.2)
    with pytest.raises(
        ValueError, match=r"none\.yaml: there is no such site; choose one of .*file"
    ):
        site_of(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("key", ["price_usd_per_kwh", "wue_l_per_kwh"])
def test_a_price_or_a_water_figure_that_is_no_number_is_refused_with_file_and_key(tmp_path, key):
    path = tmp_path / "our_room.yaml"
    for value in ("20 cents", "true"):
        path.write_text(f"grid_gco2e_per_kwh: 120\npue: 1.4\n{key}: {value}\n")
        with pytest.raises(ValueError, match=f"^{path}: {key} is no number; give one, .* or null"):
            site_of(str(path))


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ("grid_gco2e_per_kwh: -5\npue: 1.1\n", "grid_gco2e_per_kwh=-5; give a number of at least"),
        ("grid_gco2e_per_kwh: .nan\npue: 1.1\n", "grid_gco2e_per_kwh=nan; give a number of at"),
        ("grid_gco2e_per_kwh: 5\npue: 0.5\n", "pue=0.5; give a number of at least 1"),
    ],
)
def test_a_figure_that_cannot_be_is_refused(figures, said, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(figures)
    with pytest.raises(ValueError, match=rf"mine\.yaml: {said}"):
        site_of(str(path))


def test_a_site_of_one_s_own_is_read_as_yaml_and_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("multirun_analysis.statistics.site.conf_dir", lambda: tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine.yaml").write_text(
        '"name": mine\npue: 1.1  # measured\ngrid_gco2e_per_kwh: 5.0e+1\n'
        "grid_source: 'a # b: c'\npue_source: >-\n  two\n  lines\nwue_l_per_kwh: ~\n"
    )
    mine = Site("mine", 50.0, 1.1, grid_source="a # b: c", pue_source="two lines")
    assert site_of("mine") == mine
    (tmp_path / "site" / "half.yaml").write_text("grid_gco2e_per_kwh: 5\n")
    with pytest.raises(ValueError, match=r"half\.yaml: pue is no number; give one"):
        site_of("half")
    with pytest.raises(ValueError, match=r"^--site \.\./site/mine: there is no such site"):
        site_of("../site/mine")


def test_runs_with_figures_of_their_own_have_a_site_without_sources(make, tmp_path):
    make.run(tmp_path / "0", site="france", grid_gco2e_per_kwh=1.0, pue=1.1)
    rows = to_rows(collect([tmp_path]).runs)
    assert common_site(rows) == Site("france", 1.0, 1.1)


def test_runs_of_two_sites_have_none_in_common(make, tmp_path):
    make.run(tmp_path / "0", site="france")
    make.run(tmp_path / "1", site="texas", student_key="b")
    assert common_site(to_rows(collect([tmp_path]).runs)) is None


def test_runs_of_a_shipped_site_have_its_sources(make, tmp_path):
    france = site_of("france")
    make.run(tmp_path / "0", **record_of(france))
    assert common_site(to_rows(collect([tmp_path]).runs)) == france


def record_of(site):
    """What metrics.json of a run at a site says of it."""
    names = ("grid_gco2e_per_kwh", "pue", "grid_source", *GRID)
    return {"site": site.name} | {name: getattr(site, name) for name in names}


def test_an_old_record_of_a_shipped_site_has_its_price_and_leaves_unstated_what_it_counts(
    make, tmp_path
):
    france = site_of("france")
    record = record_of(france) | dict.fromkeys(("grid_source", *GRID))
    make.run(tmp_path / "0", **record)
    unstated = dict.fromkeys(set(GRID) - {"grid_year"}, "unstated") | {"grid_year": None}
    found = common_site(to_rows(collect([tmp_path]).runs))
    assert found == replace(france, grid_source=found.grid_source, **unstated)
    assert found.price_usd_per_kwh == 0.179
    assert counts_words(found) == "contents of the factor unstated"


def test_what_is_stated_and_what_is_not_have_no_site_in_common_though_figures_are_equal(
    make, tmp_path
):
    make.run(tmp_path / "0", **record_of(site_of("france")))
    old = dict.fromkeys(("grid_source", *GRID))
    make.run(tmp_path / "1", student_key="b", **record_of(site_of("france")) | old)
    rows = to_rows(collect([tmp_path]).runs)
    assert common_site(rows) is None
    assert len(stated_sites(rows)) == 2
    assert common_site(rows[:1]) is not None and common_site(rows[1:]) is not None


def test_runs_that_differ_in_release_alone_share_a_site_without_one(make, tmp_path):
    record = record_of(site_of("france"))
    make.run(tmp_path / "0", **record)
    make.run(tmp_path / "1", student_key="b", **record | {"grid_release": "another"})
    found = common_site(to_rows(collect([tmp_path]).runs))
    assert (found.grid_release, found.grid_year) == ("unstated", 2024)


def test_what_leaves_something_unstated_counts_like_itself_alone():
    france, sweden, texas = (site_of(name) for name in ("france", "sweden", "texas"))
    assert france.counts == sweden.counts != texas.counts
    one, two = (replace(site, grid_gases="unstated") for site in (france, sweden))
    assert one.counts != two.counts and one.counts != france.counts
    assert one.counts == replace(one, pue=1.0).counts
    assert counts_words(one) == "life cycle, generation, average, gases unstated"
    assert counts_words(texas) == "combustion alone, generation, average, CO2e"


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        (
            "grid_boundary: direct",
            "grid_boundary=direct is unknown; choose one of combustion, lifecycle, unstated",
        ),
        ("grid_kind: mean", "grid_kind=mean is unknown; choose one of average, marginal, unstated"),
        ("grid_year: soon", "grid_year=soon is no year; give one as 2024, or null"),
    ],
)
def test_a_site_of_one_s_own_is_refused_in_the_words_of_a_run(tmp_path, monkeypatch, line, refusal):
    monkeypatch.setattr("multirun_analysis.statistics.site.conf_dir", lambda: tmp_path)
    (tmp_path / "site").mkdir()
    path = tmp_path / "site" / "mine.yaml"
    path.write_text(f"grid_gco2e_per_kwh: 5\npue: 1\n{line}\n")
    with pytest.raises(ValueError) as caught:
        site_of("mine")
    assert str(caught.value) == f"{path}: {refusal}"
