"""The chat page in a real browser, as a person uses it: with a keyboard, a key, a slow server and a broken one."""

import hashlib
import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from pilothouse.models.pocket.answers import ATOM, SPAIN
from support.questions import user
from support.server import Served, served

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "page.png"

pytestmark = pytest.mark.timeout(180)


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def answered(page: Page, text: str) -> None:
    """The last answer is whole, and `text`."""
    last = page.locator("li.assistant").last
    expect(last.locator(".text")).to_have_text(text)
    expect(last.locator(".figures")).to_be_visible()


def test_an_answer_streams_in_with_its_figures(page: Page, server: Served) -> None:
    """The pocket model's words, the time to the first token, tokens a second and the counts; the picture in README is of this."""
    page.goto(server.rest)
    expect(page).to_have_title(server.model)
    ask(page, ATOM[0])
    answered(page, ATOM[1])
    figures = page.locator("li.assistant .figures").inner_text()
    assert [part.split()[-1] for part in figures.split(" · ")[:3]] == ["ms", "tokens/s", "tokens"]
    if os.environ.get("PILOTHOUSE_PICTURES"):
        PICTURE.parent.mkdir(exist_ok=True)
        page.screenshot(path=PICTURE)


def test_it_says_which_model_answers_and_where_it_is_from(page: Page, server: Served) -> None:
    """Version, engine, architecture and what else /v1/models says of it."""
    card = server.client.get("/v1/models").json["data"][0]["pilothouse"]
    page.goto(server.rest)
    expect(page.locator("#version")).to_have_text(f"version {card['version']}, {card['engine']} on {card['device']}")
    page.locator("#provenance summary").click()
    told = dict(zip(page.locator("#facts dt").all_inner_texts(), page.locator("#facts dd").all_inner_texts(), strict=True))
    assert {name.replace("_", " "): fact for name, fact in card.items() if isinstance(fact, str)}.items() <= told.items()


def test_a_conversation_is_sent_whole_and_a_new_chat_forgets_it(page: Page, server: Served) -> None:
    """Each question goes out with what was said before it, and only with that."""
    sent: list[list[dict[str, str]]] = []
    page.on("request", lambda asked: sent.append(asked.post_data_json["messages"]) if asked.method == "POST" else None)
    page.goto(server.rest)
    ask(page, SPAIN[0])
    answered(page, SPAIN[1])
    ask(page, ATOM[0])
    expect(page.locator("li.assistant .figures")).to_have_count(2)
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("li")).to_have_count(0)
    ask(page, SPAIN[0])
    answered(page, SPAIN[1])
    first = [user(SPAIN[0])]
    assert sent == [first, [*first, {"role": "assistant", "content": SPAIN[1]}, user(ATOM[0])], first]


def test_what_a_model_writes_is_text_and_never_markup(page: Page, server: Served) -> None:
    """Markup in a question, or in an answer, is shown as it was written."""
    page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=EVIL))
    page.goto(server.rest)
    ask(page, "<b>bold</b>")
    answered(page, "<img src=x onerror=alert(1)>")
    assert page.locator("li b, li img").count() == 0
    expect(page.locator("li.user .text")).to_have_text("<b>bold</b>")


EVIL = (
    'data: {"choices":[{"index":0,"delta":{"content":"<img src=x onerror=alert(1)>"},"finish_reason":null}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)


def test_everything_can_be_done_with_the_keyboard(page: Page, server: Served) -> None:
    """The message has the focus, Shift+Enter breaks a line, Enter sends, Tab goes on to the options and the button in their order."""
    page.goto(server.rest)
    expect(page.get_by_label("Your message")).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(page.get_by_label("Your message")).to_have_value("one\ntwo")
    page.keyboard.press("Tab")
    expect(page.locator("#options summary")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Send")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("li.user .text")).to_have_text("one\ntwo")


def test_a_screen_reader_hears_whole_answers(page: Page, server: Served) -> None:
    """The status region says that the model answers, then the answer at once; every control has a name."""
    page.goto(server.rest)
    ask(page, SPAIN[0])
    expect(page.get_by_role("status")).to_have_text(f"Model: {SPAIN[1]}")
    names = page.locator("button:visible, textarea:visible, input:visible").evaluate_all(
        "found => found.map(e => e.textContent || e.labels?.[0]?.textContent || '')"
    )
    assert all(name.strip() for name in names)
    assert page.locator("html").get_attribute("lang") == "en"


def test_a_missing_key_is_asked_for_and_taken(page: Page, tmp_path: Path) -> None:
    """The page itself is open; what it asks for is refused until the key is typed, and the key is kept nowhere."""
    keys = tmp_path / "keys"
    keys.write_text(f"me:sha256={hashlib.sha256(b'a-key-to-type-0123456789').hexdigest()}\n")
    with served(api_keys_file=keys) as locked:
        page.goto(locked.rest)
        expect(page.get_by_role("alert")).to_contain_text("key")
        expect(page.get_by_label("API key")).to_be_focused()
        page.keyboard.type("a-key-to-type-0123456789")
        page.keyboard.press("Tab")
        expect(page.locator("#model")).to_have_text(locked.model)
        expect(page.get_by_role("alert")).to_be_hidden()
        ask(page, SPAIN[0])
        answered(page, SPAIN[1])
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_escape_stops_an_answer_and_keeps_what_came(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is given back, what was shown stays, and the next question can be asked."""
    monkeypatch.setenv("SCRIPTED_STEP_SECONDS", "0.05")
    with served(scripted=True) as slow:
        page.goto(slow.rest)
        page.get_by_text("Options").click()
        page.get_by_label("Most tokens").fill("4000")
        ask(page, "on and on")
        expect(page.locator("li.assistant .text")).not_to_be_empty()
        page.keyboard.press("Escape")
        expect(page.locator("li.assistant .figures")).to_contain_text("ended: stopped by you")
        expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_a_refused_question_is_given_back(page: Page, server: Served) -> None:
    """The server's own words, and the question in the field again: nothing is lost."""
    page.goto(server.rest)
    page.get_by_text("Options").click()
    page.get_by_label("Temperature").fill("9")
    ask(page, SPAIN[0])
    expect(page.get_by_role("alert")).to_contain_text("temperature")
    expect(page.get_by_label("Your message")).to_have_value(SPAIN[0])
    expect(page.locator("li")).to_have_count(0)


def test_a_server_that_went_away_is_told(page: Page) -> None:
    """A stopped server is an alert, not a silent page."""
    with served(scripted=True) as gone:
        page.goto(gone.rest)
        expect(page.locator("#version")).to_be_visible()
    ask(page, "anyone there?")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_label("Your message")).to_have_value("anyone there?")
