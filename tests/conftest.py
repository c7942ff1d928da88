"""What was not run, said at the end and not only by a letter among dots."""

from pathlib import Path

import pytest
from hypothesis import settings

from support.chart import Chart
from support.pocket_hf import pocket_hf

settings.register_profile("ours", deadline=None)  # speed is no part of a test: another one may have the machine
settings.load_profile("ours")

GPU = any(Path("/dev").glob("nvidia[0-9]*"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not GPU and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What takes minutes, once on a machine, is there before the clock of the first test that asks for it runs: a trained Transformers model, Helm."""
    if session.config.option.collectonly:
        return
    if any(item.get_closest_marker("transformers") for item in session.items):
        pocket_hf()
    if any("Chart" in vars(item.module) or "chart" in item.fixturenames for item in session.items if isinstance(item, pytest.Function)):
        Chart.found()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report.nodeid for report in terminalreporter.getreports("skipped") if "gpu" in report.keywords]
    if skipped:
        terminalreporter.write_line(f"not run, for want of a GPU ({len(skipped)}):")
        for name in sorted(skipped):
            terminalreporter.write_line(f"  {name}")
