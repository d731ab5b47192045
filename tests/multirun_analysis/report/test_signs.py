"""The page's own words: contents, signs that are explained once, and a headline for each reader."""

import re
from html.parser import HTMLParser

import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.report.page import report_html
from multirun_analysis.report.signs import SIGNS
from multirun_analysis.statistics.site import site_of
from tests.multirun_analysis.page_words import own_html


class Anchors(HTMLParser):
    """Where links lead, and what they may lead to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.targets = [], []
        self.feed(own_html(text))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.links += [values["href"]] if tag == "a" else []
        self.targets += [f"#{values['id']}"] if "id" in values else []


def headline_of(text):
    """The headline as it is read: a unit is not broken from its number."""
    headline = re.search("<h1>(.*?)</h1>", text)[1]
    assert not re.search(r"\d (?:%|J|kWh)", headline)
    return headline.replace("\u00a0", " ")


@pytest.mark.parametrize("profile", ["research", "provider", "esg"])
def test_every_link_has_its_place_and_every_section_its_link(sweep, profile):
    text = report_html(sweep, profile=profile, site=site_of("france"))
    found = Anchors(text)
    assert len(set(found.targets)) == len(found.targets)
    assert set(found.links) <= set(found.targets)
    sections = re.findall(r'<section id="([\w-]+)">', text)
    contents = text.partition('class="contents"')[2].partition("</nav>")[0]
    assert re.findall(r'href="#([\w-]+)"', contents) == sections
    assert len(sections) > 12


def test_each_sign_is_explained_once_where_its_links_lead(sweep_page, imported_page):
    shown = set()
    for page in (sweep_page, imported_page):
        own = own_html(page)
        linked = set(re.findall(r'class="sign" href="#sign-(\w+)"', own))
        explained = re.findall(r'<dt id="sign-(\w+)">', own)
        assert linked <= set(explained) and len(set(explained)) == len(explained)
        shown |= linked
    assert {"verdict", "obtained", "chance"} <= shown <= {sign.name for sign in SIGNS}


def test_a_reader_of_energy_and_emissions_has_them_in_the_headline(make, tmp_path):
    folder = make.run(tmp_path / "0", inherited_energy_by_artifact_j=None)
    make.append(folder / "stages.jsonl", [make.stage("distill")])
    text = report_html(collect([tmp_path]), profile="esg", site=site_of("france"))
    headline = headline_of(text)
    # A stage of 1 kJ.
    assert headline.startswith("This work drew 0.000278 kWh and emitted ")
    assert headline.endswith(" kg CO2e (measured). CO2e is at the grid factor of site france.")


def test_a_provider_has_a_year_of_service_in_the_headline(sweep):
    text = report_html(sweep, profile="provider", site=site_of("france"), tokens_per_day=2e9)
    headline = headline_of(text)
    assert re.match(
        r"A year of 2 billion tokens a day takes [\d,.]+ kWh with \w+ and [\d,.]+ kWh with its "
        r"teacher \(measured, eager loop\)\.", headline,
    )  # fmt: skip
    research = headline_of(report_html(sweep))
    assert f'<p class="lead">{research}</p>' in text.replace("\u00a0", " ")


def test_a_line_of_the_first_sentences_never_begins_with_a_percent_sign(sweep):
    text = report_html(sweep)
    first = re.findall('<h1>.*?</h1>|<p class="lead">.*?</p>', text)
    assert any("\u00a0%" in line for line in first) and not any(" %" in line for line in first)


def test_a_profile_without_its_numbers_has_the_answer_as_its_headline(make, tmp_path):
    make.run(tmp_path / "0", metrics=None)
    for profile in ("research", "provider", "esg"):
        text = report_html(collect([tmp_path]), profile=profile)
        assert "<h1>No run has finished yet.</h1>" in text
