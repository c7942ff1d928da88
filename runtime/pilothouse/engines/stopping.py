"""Stop strings over streamed text: what is shown is never taken back, so text that may begin a stop string waits until it can't any more.

Each string is followed by its own Knuth-Morris-Pratt state. So the work is proportional to the text, whatever the strings look like, and
the answer does not depend on how the text was cut into pieces.
"""

from collections.abc import Iterable


class StopScanner:
    """Cuts a text before the stop string that is complete first; where several end on the same character, before the longest."""

    __slots__ = ("_held", "_needles", "stopped")

    def __init__(self, strings: Iterable[str]) -> None:
        self._needles = [_Needle(s) for s in strings if s]
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that is safe to show now, and whether a stop string was found. After a hit nothing more is shown."""
        if self.stopped:
            return "", True
        hit: tuple[int, int] | None = None
        for needle in self._needles:
            end = needle.feed(text)
            if end and (hit is None or (end, -len(needle.text)) < (hit[0], -hit[1])):
                hit = (end, len(needle.text))
        whole = self._held + text
        if hit is not None:
            self.stopped, cut = True, len(self._held) + hit[0] - hit[1]
            self._held = ""
            return whole[:cut], True
        cut = len(whole) - max((n.matched for n in self._needles), default=0)
        self._held = whole[cut:]
        return whole[:cut], False

    def finish(self) -> str:
        """What was held back: the text has ended, so it begins no stop string."""
        held, self._held = self._held, ""
        return held


class _Needle:
    """One stop string; `matched` is the length of its longest beginning that the text ends with."""

    __slots__ = ("_fallback", "matched", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._fallback = [0] * len(text)  # per length - 1: the longest shorter beginning that is also its end
        k = 0
        for i in range(1, len(text)):
            while k and text[k] != text[i]:
                k = self._fallback[k - 1]
            k += text[k] == text[i]
            self._fallback[i] = k

    def feed(self, text: str) -> int:
        """How many characters of `text` complete the string for the first time; 0: it is not complete."""
        needle, fallback, k, i = self.text, self._fallback, self.matched, 0
        while i < len(text):
            if not k:
                i = text.find(needle[0], i)
                if i < 0:
                    break
            while k and needle[k] != text[i]:
                k = fallback[k - 1]
            k += needle[k] == text[i]
            i += 1
            if k == len(needle):
                return i
        self.matched = k
        return 0
