"""Where the paged graph narrows to the tokens whose logits are wanted.

A prompt's tokens are there to be seen by later ones, and behind the last attention nobody looks at them any more: the products of its layer that
come after it, and the head, are computed for the wanted tokens only.
"""

from collections.abc import Sequence
from typing import Any

from pilothouse.engines.paged_stages import is_a_row_a_token, take


def narrow(head: Any, attention: Any, sources: Sequence[Any], wanted: Any) -> None:
    """Have what `head` (a product) hangs on be computed for the tokens at `wanted` only: from `attention` on, the last one's answer [tokens, 1, width].

    `sources` are the nodes through which the graph reads its tokens. Where something else than [tokens, 1, width] of theirs, as their number, is read
    behind the attention, what reads it would count other tokens than are there: the head alone is narrowed then.
    """
    behind, of_tokens = _readers([attention]), _readers(sources)
    entering = [
        target
        for node in behind.values()
        for target in node.inputs()
        if (name := target.get_source_output().get_node().get_friendly_name()) in of_tokens and name not in behind
    ]
    if head.get_friendly_name() not in behind or not all(is_a_row_a_token(target.get_source_output()) for target in entering):
        entering = [head.input(0)]
    taken: dict[tuple[str, int], Any] = {}
    for target in entering:
        source = target.get_source_output()
        key = source.get_node().get_friendly_name(), source.get_index()
        if key not in taken:
            taken[key] = take(source, wanted)
        target.replace_source_output(taken[key].output(0))


def _readers(nodes: Sequence[Any]) -> dict[str, Any]:
    """All that hang on `nodes`, by name."""
    found: dict[str, Any] = {}
    todo = list(nodes)
    while todo:
        for output in todo.pop().outputs():
            for reader in (target.get_node() for target in output.get_target_inputs()):
                if reader.get_friendly_name() not in found:
                    found[reader.get_friendly_name()] = reader
                    todo.append(reader)
    return found
