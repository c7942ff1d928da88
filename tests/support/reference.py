"""onnxruntime-genai's Generator as the reference for engines of ours, and graphs edited for what no small export has."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from pilothouse.engines.base import Stages, StepEngine, Work

TOLERANCE = 0.4  # of the logits' norm: both engines compute in 8 bits, each with its own rounding; a wrong graph is off by more than 1


def generator_logits(folder: Path, prompt: Sequence[int], tokens: int) -> tuple[list[int], NDArray[np.float32]]:
    """The Generator's greedy tokens, and the logits [tokens, vocabulary] that each was chosen by."""
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(prompt) + tokens + 1, min_length=len(prompt) + tokens, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array(prompt, np.int32))
    chosen, logits = [], []
    for _ in range(tokens):
        logits.append(np.asarray(generator.get_logits())[0, -1].copy())
        generator.generate_next_token()
        chosen.append(int(generator.get_next_tokens()[0]))
    return chosen, np.stack(logits)


def forced_logits(
    engine: StepEngine, prompt: Sequence[int], answer: Sequence[int], *, chunk: int = 10_000, drafts: int = 0, resting: bool = False
) -> NDArray[np.float32]:
    """The engine's logits [len(answer), vocabulary] before each token of `answer`, which is fed whatever they say, 1 + `drafts` at a time.

    The prompt goes in by `chunk` tokens; with `resting`, each rests between all of the engine's stages.
    """
    fed = engine.admit(0, prompt, "")
    assert fed is not None
    logits = []
    while fed < len(prompt):
        piece = prompt[fed : fed + chunk]
        fed += len(piece)
        wanted, every = int(fed == len(prompt)), engine.stages if resting else 0
        for stage in range(every - 1):
            engine.step([Work(0, piece, 0, Stages(stage, stage + 1, every))])
        answered = engine.step([Work(0, piece, wanted, Stages(every - 1, every, every) if every else None)])
    logits.append(answered.copy())
    for at in range(0, len(answer) - 1, 1 + drafts):
        piece = answer[at : min(at + 1 + drafts, len(answer) - 1)]
        assert engine.extend(0, len(piece))
        logits.append(engine.step([Work(0, piece, len(piece))]).copy())
    engine.withdraw(0)
    return np.concatenate(logits)


def assert_close(actual: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float = TOLERANCE) -> None:
    """At every position the logits differ by less than `tolerance` of their norm, at most of them by a quarter of that."""
    assert actual.shape == expected.shape
    off = np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert off.max() < tolerance, off.round(3).tolist()
    assert np.median(off) < tolerance / 4, off.round(3).tolist()


def edited(folder: Path, to: Path, edit: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy of the exported `folder` in `to` with its graph changed."""
    shutil.copytree(folder, to)
    model = onnx.load(to / "model.onnx", load_external_data=False)
    edit(model)
    onnx.save(model, to / "model.onnx")
    return to


def with_attribute(name: str, value: float, *, of: str = "GroupQueryAttention") -> Callable[[onnx.ModelProto], None]:
    """Sets an attribute of every node of one type."""

    def edit(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == of:
                kept = [a for a in node.attribute if a.name != name]
                del node.attribute[:]
                node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    return edit


def with_input(index: int, name: str) -> Callable[[onnx.ModelProto], None]:
    """Gives every attention a constant as its input number `index`."""

    def edit(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(4, np.float32), name))
        for node in model.graph.node:
            if node.op_type == "GroupQueryAttention":
                node.input.extend([""] * (index + 1 - len(node.input)))
                node.input[index] = name

    return edit


def without_logits(model: onnx.ModelProto) -> None:
    """Calls the output by another name."""
    next(node for node in model.graph.node if "logits" in node.output).output[0] = "scores"
    next(output for output in model.graph.output if output.name == "logits").name = "scores"


def pruned_head(model: onnx.ModelProto) -> None:
    """Lets the head take the last position only, as the builder does with prune_lm_head."""
    nodes = list(model.graph.node)
    head = next(node for node in nodes if "logits" in node.output)
    for name, value in (("last", np.array(-1, np.int64)), ("one", np.array([1], np.int64))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    gather = onnx.helper.make_node("Gather", [head.input[0], "last"], ["pruned"], axis=1)
    unsqueeze = onnx.helper.make_node("Unsqueeze", ["pruned", "one"], ["pruned.1"])
    head.input[0] = "pruned.1"
    place = nodes.index(head)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], gather, unsqueeze, *nodes[place:]])
