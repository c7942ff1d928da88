"""Drafts by prompt lookup: what followed the last few tokens before may follow them again (quotes, code, lists, JSON keys).

The index grows with the row and a step looks once per length of n-gram, so a token costs the same late in a long row as early. Drafts are checked by
the model and cost a share of a step when they are wrong: a row whose drafts don't pay rests, for longer each time.
"""

from collections.abc import Sequence

LENGTHS = (3, 2)  # of the n-grams that are looked up, the more telling first
MOST = 8  # longest draft
WORTH = 0.25  # least share of accepted drafts that pays: four tokens of one row cost about half as much again as one
REST, LONGEST_REST = 16, 256  # tokens


class Lookup:
    """One row's drafts. `tokens` is the row's own growing list of prompt and answer: read here, never changed."""

    __slots__ = ("_after", "_gain", "_indexed", "_reach", "_rest", "_tokens", "_wake")

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> place of what followed it last
        self._indexed = LENGTHS[-1]
        self._reach = 2  # how far to guess; twice as far after each draft that was right to its end
        self._gain = 0.5  # running share of accepted drafts
        self._rest = REST
        self._wake = 0  # no drafts until the row is this long

    def draft(self, most: int) -> tuple[int, ...]:
        """Up to `most` tokens that may come next; none where nothing like the last tokens came before, or while the row rests."""
        tokens = self._tokens
        size = len(tokens)
        if most < 1 or size < self._wake:
            return ()
        self._index()
        for length in LENGTHS:
            at = self._after.get(tuple(tokens[size - length :])) if size > length else None
            if at is not None:
                reach = min(most, self._reach)
                drafts = list(tokens[at : at + reach])
                period = size - at  # a text that repeats itself goes on repeating
                while len(drafts) < reach:
                    drafts.append(drafts[len(drafts) - period])
                return tuple(drafts)
        return ()

    def account(self, offered: int, accepted: int) -> None:
        """Learn from a draft of `offered` tokens of which the first `accepted` were right."""
        if not offered:
            return
        self._reach = min(self._reach * 2, MOST) if accepted == offered else max(1, accepted)
        self._gain += (accepted / offered - self._gain) / 4
        if self._gain < WORTH:
            self._wake = len(self._tokens) + self._rest
            self._rest = min(self._rest * 2, LONGEST_REST)
            self._gain = WORTH * 1.5  # a try or two after the rest
        elif accepted == offered:
            self._rest = REST

    def _index(self) -> None:
        """Enter the n-grams that something follows by now."""
        tokens, after = self._tokens, self._after
        for place in range(self._indexed, len(tokens)):
            for length in LENGTHS:
                if place >= length:
                    after[tuple(tokens[place - length : place])] = place
        self._indexed = max(self._indexed, len(tokens))
