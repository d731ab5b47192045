import pytest

from kdwatts.paths import conf_dir
from multirun_analysis.collect import collect
from multirun_analysis.rows import to_rows
from multirun_analysis.site import Site, all_sites, common_site, site_of


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


def test_a_site_of_one_s_own_is_read_as_yaml_and_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("multirun_analysis.site.conf_dir", lambda: tmp_path)
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
    figures = {"grid_gco2e_per_kwh": france.grid_gco2e_per_kwh, "pue": france.pue}
    make.run(tmp_path / "0", site="france", **figures)
    assert common_site(to_rows(collect([tmp_path]).runs)) == france
