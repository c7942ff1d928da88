"""Helm, once for all chart tests."""

import pytest

from support.chart import Chart


@pytest.fixture(scope="session")
def chart() -> Chart:
    return Chart.found()
