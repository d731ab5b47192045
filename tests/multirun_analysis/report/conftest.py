"""Pages that several tests read."""

import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.report.page import report_html


@pytest.fixture(scope="session")
def sweep_page(sweep):
    return report_html(sweep)


@pytest.fixture(scope="session")
def imported_page(imported_dir):
    return report_html(collect([imported_dir]))
