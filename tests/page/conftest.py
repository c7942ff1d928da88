"""One browser and one server for all tests of the page."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from support.server import Served, served

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def server() -> Iterator[Served]:
    with served() as found:
        yield found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The machine's own, without a window; scripts/browser installs one."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail("no browser: scripts/browser installs chromium")
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh profile. Whatever the console or the content security policy complains of fails the test."""
    context = browser.new_context(viewport={"width": 900, "height": 640}, color_scheme="light")
    context.set_default_timeout(20_000)
    found = context.new_page()
    complaints: list[Any] = []
    found.on("pageerror", lambda error: complaints.append(error))
    found.on(
        "console",
        lambda message: complaints.append(message.text) if message.type == "error" and "Failed to load" not in message.text else None,
    )
    yield found
    context.close()
    assert complaints == []
