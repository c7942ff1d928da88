"""What an error tells its client beside the words."""

import pytest

from pilothouse.errors import ContextLengthExceeded, Overloaded


@pytest.mark.parametrize(("retry_after", "seconds"), [(0.2, 1), (1.0, 1), (2.5, 3)])
def test_those_refused_together_are_not_asked_back_together(retry_after: float, seconds: int) -> None:
    """Whole seconds for everybody; in milliseconds never sooner, up to half as long again, and each their own."""
    told = [Overloaded("full", retry_after=retry_after).headers for _ in range(100)]
    assert {headers["retry-after"] for headers in told} == {str(seconds)}
    later = [int(headers["retry-after-ms"]) for headers in told]
    assert min(later) >= seconds * 1000
    assert max(later) <= seconds * 1500
    assert len(set(later)) > 50


def test_a_wire_with_other_names_says_them() -> None:
    """The class, the code and the words stay; a field that has no other name leaves the error as it is."""
    error = ContextLengthExceeded("messages has 9 tokens: shorten messages", field="messages", code="c")
    renamed = error.renamed({"messages": "input"})

    assert (type(renamed), renamed.message, renamed.field, renamed.code) == (
        ContextLengthExceeded,
        "input has 9 tokens: shorten messages",
        "input",
        "c",
    )
    assert error.renamed({"prompt": "input"}) is error
    assert Overloaded("full").renamed({"messages": "input"}).field is None
