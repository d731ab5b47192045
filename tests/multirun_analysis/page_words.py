"""Pages and their sections as a test reads them."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from plotly.offline import get_plotlyjs

from multirun_analysis.collect.collection import Collected
from multirun_analysis.report.page import section_html
from multirun_analysis.report.study import Study


def section_of(collected: Collected, name: str, **asked: Any) -> str:
    """One section as HTML; `asked` are fields of the study."""
    return section_html(name, Study(**{"collected": collected, "shown": {}, "site": None} | asked))


def own_html(page: str) -> str:
    """The page without the library that draws its figures."""
    return page.replace(get_plotlyjs(), "")


def words_of(html: str) -> str:
    """What a reader reads, and what figures say when they are pointed at."""
    own = re.sub(r"<style>.*?</style>", "", own_html(html), flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"</?[a-z][^>]*>", " ", own)))
