"""Plays schedules on a step engine: rows come and go, prompts go in by pieces, drafts are fed and taken back.

Greedy, with the engine's own tokens: an engine is exact when every row's tokens are those of its run alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from pilothouse.engines.base import Stages, StepEngine, Work

WHOLE = 10_000


@dataclass(frozen=True, slots=True)
class Part:
    """One row of a schedule: when it comes, how its prompt goes in, what is drafted, when it leaves without having finished."""

    prompt: tuple[int, ...]
    tokens: int
    begins: int = 0  # step
    chunk: int = WHOLE
    stages: int = WHOLE  # of the engine's, that a piece of the prompt goes through in a step
    drafts: tuple[tuple[int, int], ...] = ()  # of each step in turn: how many are right, then how many are wrong
    leaves: int = WHOLE  # tokens


@dataclass(slots=True)
class _Playing:
    part: Part
    expected: Sequence[int]  # what drafts are made of: the run alone
    fed: int = 0
    cached: int = 0
    at: int = 0  # stages behind its piece
    out: list[int] = field(default_factory=list)


def alone(engine: StepEngine, prompt: tuple[int, ...], tokens: int) -> list[int]:
    """The greedy tokens of one row that runs alone, its prompt fed at once."""
    return play(engine, [Part(prompt, tokens)], [()])[0]


def play(engine: StepEngine, parts: Sequence[Part], expected: Sequence[Sequence[int]]) -> list[list[int]]:
    """Run all parts, as many rows at once as the engine has. Answers each one's tokens; all rows are closed again."""
    waiting = sorted(range(len(parts)), key=lambda i: parts[i].begins)
    rows: dict[int, int] = {}
    free = list(range(engine.rows))[::-1]
    states = [_Playing(part, known) for part, known in zip(parts, expected, strict=True)]
    step = 0
    while waiting or rows:
        while waiting and free and (parts[waiting[0]].begins <= step or not rows):
            index, row = waiting.pop(0), free.pop()
            cached = engine.admit(row, parts[index].prompt, "")
            assert cached is not None
            assert 0 <= cached < len(parts[index].prompt)
            states[index].fed = states[index].cached = cached
            rows[row] = index
        work, drafted = [], []
        piece = _piece(engine, {row: states[index] for row, index in rows.items()})
        for row in sorted(rows, key=lambda row: row == piece):
            state, stages = states[rows[row]], None
            tokens, drafts = _next(state)
            assert engine.extend(row, len(tokens))
            if row == piece:
                stages = Stages(state.at, min(state.at + state.part.stages, engine.stages), engine.stages)
                state.at = stages.end % engine.stages
            done = state.fed + len(tokens) - len(drafts) >= len(state.part.prompt) and (stages is None or stages.last)
            work.append(Work(row, tokens, 1 + len(drafts) if done else 0, stages))
            drafted.append(drafts)
        logits = engine.step(work)
        chosen = logits.argmax(axis=1).tolist()
        assert len(chosen) == sum(item.wanted for item in work)
        for item, drafts in zip(work, drafted, strict=True):
            state = states[rows[item.row]]
            state.fed += len(item.tokens) if item.stages is None or item.stages.last else 0
            if item.wanted:
                mine, chosen = chosen[: item.wanted], chosen[item.wanted :]
                accepted = next((i for i, draft in enumerate(drafts) if draft != mine[i]), len(drafts))
                if len(drafts) > accepted:
                    engine.rollback(item.row, len(drafts) - accepted)
                    state.fed -= len(drafts) - accepted
                state.out += mine[: accepted + 1]
            if len(state.out) >= min(state.part.tokens, state.part.leaves):
                engine.withdraw(item.row)
                free.append(item.row)
                del rows[item.row]
        step += 1
    return [state.out[: min(state.part.tokens, state.part.leaves)] for state in states]


def _piece(engine: StepEngine, rows: dict[int, _Playing]) -> int | None:
    """The row whose piece of a prompt goes through some stages only: the one that rests, or the first that may."""
    going = [row for row, state in rows.items() if state.part.stages < engine.stages and len(_next(state)[0]) > 1 and not state.out]
    return next((row for row in going if rows[row].at), next(iter(going), None))


def _next(state: _Playing) -> tuple[list[int], list[int]]:
    """What the row is fed, and which of that are drafts."""
    part = state.part
    if state.fed < len(part.prompt):
        return list(part.prompt[state.fed : state.fed + part.chunk]), []
    at = len(state.out)
    right, wrong = part.drafts[at % len(part.drafts)] if part.drafts else (0, 0)
    known = list(state.expected[at : at + right])
    drafts = known + [(token + 1) % 100 for token in list(state.expected[at + len(known) : at + len(known) + wrong])]
    return [state.out[-1], *drafts], drafts


def schedules(prompts: Sequence[tuple[int, ...]], *, rows: int, tokens: int = 24) -> st.SearchStrategy[list[Part]]:
    """Some parts over these prompts: coming at different times, in chunks of 1, 7, 16 or at once, with right and wrong drafts, some leaving."""
    part = st.builds(
        Part,
        prompt=st.sampled_from(prompts),
        tokens=st.integers(1, tokens),
        begins=st.integers(0, 12),
        chunk=st.sampled_from([1, 7, 16, WHOLE]),
        stages=st.sampled_from([1, 3, WHOLE]),
        drafts=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=4).map(tuple),
        leaves=st.sampled_from([1, 5, WHOLE, WHOLE]),
    )
    return st.lists(part, min_size=1, max_size=rows + 2)
