import re

from multirun_analysis.collect import collect
from multirun_analysis.provider import provider_section
from multirun_analysis.site import Site

SITE = Site("here", 100.0, 2.0, price_usd_per_kwh=0.25, price_source="a tariff")
SERVED = {"student_total_j_per_token": 1.0, "teacher_total_j_per_token": 3.0}


def text_of(directory, site=SITE, tokens_per_day=36_000):
    found = collect([directory])
    html = provider_section(found.runs, found.train, site, tokens_per_day=tokens_per_day)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_a_year_of_service_is_kwh_and_money_of_the_student_beside_the_teacher(make, tmp_path):
    inherited = {"inherited_energy_j": 0.0, "inherited_energy_by_artifact_j": {}}
    make.run(tmp_path / "0", own_energy_j=3.6e6, **SERVED, **inherited)
    text = text_of(tmp_path)
    # 13.14 million tokens a year: 3.65 and 10.95 kWh; times PUE 2 and 0.25 USD/kWh 1.825 USD, and
    # three times that of the teacher. Building is 1 kWh, repaid after 3.6 MJ / 2 J = 50 days.
    assert re.search(r"0\.950 3\.65 1\d\.\d+ 1\.00 50 \d+ to \d+ 1\.8\d 3\.65", text)
    assert "Price at here: 0.25 USD/kWh (a tariff), PUE 2." in text


def test_the_setting_that_needs_least_comes_first(make, tmp_path):
    make.run(tmp_path / "0", paradigm="feature", **SERVED | {"student_total_j_per_token": 2.0})
    make.run(tmp_path / "1", paradigm="response", student_key="b", **SERVED)
    text = text_of(tmp_path)
    assert text.index("response") < text.index("feature")


def test_without_a_price_there_are_joules_and_no_money(make, tmp_path):
    make.run(tmp_path / "0", **SERVED)
    assert "no price" in text_of(tmp_path, site=None)
    text = text_of(tmp_path, site=Site("here", 100.0, 2.0))
    assert "Of site here no price is known." in text and text.rstrip().endswith("- -")


def test_a_student_that_saves_nothing_is_never_repaid(make, tmp_path):
    make.run(tmp_path / "0", **SERVED | {"student_total_j_per_token": 4.0})
    assert " never " in text_of(tmp_path)


def test_no_student_served_is_no_section(make, tmp_path):
    nothing = {"student_total_j_per_token": None, "teacher_total_j_per_token": None}
    make.run(tmp_path / "0", **nothing)
    assert text_of(tmp_path) == ""
