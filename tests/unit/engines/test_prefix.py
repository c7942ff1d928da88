"""Prefixes: which computed beginnings a prompt may use."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.engines import prefix
from pilothouse.engines.blocks import BLOCK, Blocks
from pilothouse.engines.prefix import Chain

texts = st.lists(st.integers(0, 1), min_size=0, max_size=5).map(lambda blocks: np.repeat(np.array(blocks, np.int64), BLOCK))


def full(tokens: np.ndarray) -> list[tuple[int, ...]]:
    """Every full block with all before it, as plain tuples: what a key stands for."""
    return [tuple(tokens[: (i + 1) * BLOCK].tolist()) for i in range(len(tokens) // BLOCK)]


@given(one=texts, other=texts, salts=st.tuples(st.sampled_from(["", "a"]), st.sampled_from(["", "a"])))
@settings(max_examples=100, deadline=None)
def test_keys_are_equal_exactly_when_salt_and_whole_beginning_are(one: np.ndarray, other: np.ndarray, salts: tuple[str, str]) -> None:
    """A key stands for its salt, its tokens and all tokens before them."""
    left = list(zip(full(one), Chain(salts[0]).keys(one), strict=True))
    right = list(zip(full(other), Chain(salts[1]).keys(other), strict=True))
    for text, key in left:
        for same, match in right:
            assert (key == match) == (text == same and salts[0] == salts[1])


@given(text=texts, cuts=st.lists(st.integers(0, 5 * BLOCK), max_size=4))
@settings(max_examples=60, deadline=None)
def test_keys_do_not_depend_on_how_a_text_grew(text: np.ndarray, cuts: list[int]) -> None:
    """Asked for piece by piece or at once, a text has the same keys."""
    growing = Chain("salt")
    for cut in sorted(cuts):
        list(growing.keys(text[:cut]))

    assert list(growing.keys(text)) == list(Chain("salt").keys(text))


@given(known=texts, prompt=texts, tail=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_the_longest_known_beginning_is_found_and_a_token_is_left(known: np.ndarray, prompt: np.ndarray, tail: int) -> None:
    """What is found is the common beginning in full blocks, never the whole prompt: its last token's logits are wanted."""
    blocks = Blocks(8)
    taken = blocks.take(len(known) // BLOCK) or []
    for block, key in zip(taken, Chain("").keys(known), strict=True):
        blocks.publish(block, key)
    prompt = np.concatenate([prompt, np.full(tail, 7)])
    common = next((i for i, (a, b) in enumerate(zip(known, prompt, strict=False)) if a != b), min(len(known), len(prompt)))
    expected = min(common, max(0, len(prompt) - 1)) // BLOCK

    assert prefix.find(blocks, Chain(""), prompt) == taken[:expected]


def test_tenants_do_not_find_each_other() -> None:
    """Another salt, another text: a tenant can't learn from timing what another one asked."""
    blocks, text = Blocks(2), np.zeros(2 * BLOCK, np.int64)
    taken = blocks.take(1) or []
    blocks.publish(taken[0], next(Chain("alice").keys(text)))

    assert prefix.find(blocks, Chain("alice"), text) == taken
    assert prefix.find(blocks, Chain("bob"), text) == []
