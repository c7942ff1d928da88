"""What is the slots engine's own: which graphs it takes, where rows lie, and that memory comes back."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from pilothouse.engines import slots_graph, slots_stages
from pilothouse.engines.base import Stages, Work
from pilothouse.engines.blocks import BLOCK
from pilothouse.engines.refusals import GraphRefused
from pilothouse.engines.slots import SlotsStep
from pilothouse.models import pocket
from support.playing import Part, alone, play
from support.pocket_text import KNOWN, question
from support.reference import assert_close, edited, forced_logits, generator_logits, pruned_head, with_attribute, with_input, without_logits
from support.tiny_models import ORIGINAL, tiny

RANDOM = np.random.default_rng(0).integers(10, 500, 200).tolist()


def slots(folder: Path = pocket.FOLDER, **changes: object) -> SlotsStep:
    values = {"threads": 2, "rows": 4, "context": 256, "kv_memory_bytes": 16 << 20} | changes
    return SlotsStep(folder, **values)  # type: ignore[arg-type]  # the table above has the types of the signature


@pytest.mark.slow
@pytest.mark.transformers
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["phi35", "phi4mini", "llama", "mistral", "qwen2", "qwen3"])
def test_exports_of_each_kind_compute_what_the_generator_computes(kind: str) -> None:
    """Same logits as onnxruntime-genai on the same file, whole and in chunks; here both run the same kernels."""
    folder = tiny(kind)
    engine = slots(folder)
    assert engine.stages == 2
    for length in (5, 40):
        prompt = RANDOM[:length]
        chosen, expected = generator_logits(folder, prompt, 16)
        for chunk in (1000, 7):
            assert_close(forced_logits(engine, prompt, chosen, chunk=chunk), expected, 0.01)
        assert_close(forced_logits(engine, prompt, chosen, chunk=19, resting=True), expected, 0.01)
    engine.close()


@pytest.mark.slow
@pytest.mark.transformers
@pytest.mark.timeout(300)
def test_long_rope_ends_at_its_original_window() -> None:
    """Beyond it the file would use other tables for the whole batch, so no row may go there, and the facts say so."""
    engine = slots(tiny("phi35"))
    assert engine.context == ORIGINAL
    assert engine.describe()["graph_features"] == ["long rope, within its original window"]
    engine.close()


@pytest.mark.slow
@pytest.mark.transformers
@pytest.mark.timeout(300)
def test_a_windowed_cache_is_refused_by_name() -> None:
    """Gemma 2 keeps a window of some layers' past: a slot holds all of it."""
    with pytest.raises(GraphRefused, match="keeps a window of its past only"):
        slots(tiny("gemma2"))


def test_a_sliding_window_is_carried(tmp_path: Path) -> None:
    """A local window over a whole past is the kernels' own business."""
    folder = edited(pocket.FOLDER, tmp_path / "window", with_attribute("local_window_size", 9))
    prompt = question(KNOWN[0][0])
    chosen, expected = generator_logits(folder, prompt, 12)

    assert_close(forced_logits(slots(folder), prompt, chosen), expected, 0.01)


def test_a_pruned_head_is_carried(tmp_path: Path) -> None:
    """An export whose head takes the last position only (prune_lm_head) answers at every wanted position here."""
    folder = edited(pocket.FOLDER, tmp_path / "pruned", pruned_head)
    prompt = question(KNOWN[0][0])

    assert_close(forced_logits(slots(folder), prompt, RANDOM[:6], drafts=2), forced_logits(slots(), prompt, RANDOM[:6], drafts=2), 1e-3)


def test_a_head_with_something_after_it_is_carried(tmp_path: Path) -> None:
    """A soft cap of the logits (Gemma) stays behind the wanted positions' product."""

    def cap(model: onnx.ModelProto) -> None:
        next(n for n in model.graph.node if "logits" in n.output).output[0] = "scores"
        model.graph.node.append(onnx.helper.make_node("Tanh", ["scores"], ["logits"]))

    prompt = question(KNOWN[0][0])
    capped = forced_logits(slots(edited(pocket.FOLDER, tmp_path / "capped", cap)), prompt, RANDOM[:6], drafts=2)
    assert_close(capped, np.tanh(forced_logits(slots(), prompt, RANDOM[:6], drafts=2)), 1e-3)


def _plain_attention(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "GroupQueryAttention":
            node.op_type = "MultiHeadAttention"


def _forgetful(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "GroupQueryAttention")
    node.input[3] = node.input[4] = ""


def _another_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1]))


def _unknown_operator(model: onnx.ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "Sigmoid").op_type = "Sigmund"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (_plain_attention, "its attention is MultiHeadAttention, which can't share past and present"),
        (_forgetful, "keeps no past"),
        (_another_input, "its input images is not known"),
        (with_attribute("sliding_window_cache", 1), "keeps a window of its past only"),
        (with_input(10, "bias"), "is told positions or biases by token"),
        (with_input(12, "k_scale"), "quantised keys and values"),
        (without_logits, "no output named logits"),
        (_unknown_operator, "onnxruntime can't load it"),
    ],
)
def test_what_slots_cannot_hold_is_refused_by_name(tmp_path: Path, edit: Callable[[onnx.ModelProto], None], reason: str) -> None:
    """A graph that can't share past and present goes to the next engine with the reason in hand."""
    with pytest.raises(GraphRefused, match=re.escape(reason)) as refused:
        slots(edited(pocket.FOLDER, tmp_path / "edited", edit))
    assert refused.value.engine == "slots"


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """No ONNX file, or none with its configuration: refused, never guessed."""
    (tmp_path / "model.onnx").write_bytes(b"\xff\xff\xff")
    with pytest.raises(GraphRefused, match=re.escape("model.onnx is not an ONNX file")):
        slots(tmp_path)
    (tmp_path / "model.onnx").write_bytes((pocket.FOLDER / "model.onnx").read_bytes())
    with pytest.raises(GraphRefused, match=re.escape("genai_config.json with model.decoder.head_size")):
        slots(tmp_path)


def test_rows_that_answer_lie_side_by_side() -> None:
    """When a row between others leaves, the cheapest neighbour closes the gap, and a prompt that is still going in makes way."""
    engine = slots(rows=4)
    for row, length in enumerate((40, 10, 20, 30)):
        engine.admit(row, (5 + row,) * length, "")
        engine.step([Work(row, (5 + row,) * length, 1)])
    engine.withdraw(1)
    engine.admit(1, (60,) * 50, "")  # into the gap
    engine.step([Work(1, (60,) * 8, 0), Work(2, [9], 1), Work(0, [9], 1), Work(3, [9], 1)])

    assert [engine._rows[row].slot for row in range(4)] == [0, 3, 2, 1]  # the last row moved 30 tokens, the first would have moved 40
    engine.close()


def test_a_piece_of_a_prompt_goes_with_the_rows_that_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are read once for both, and the logits are those of the rows and the piece alone; only a second piece is a run of its own."""
    prompts = [RANDOM[at : at + 20] for at in (0, 20, 40, 60)]
    engine, apart = slots(), slots()
    for made in (engine, apart):
        for row, prompt in enumerate(prompts):
            assert made.admit(row, prompt, "") == 0
            made.step([Work(row, prompt[: 20 if row < 2 else 7], 1)])
    work = [Work(2, prompts[2][7:], 3), Work(0, [9], 1), Work(3, prompts[3][7:12], 0), Work(1, [11], 1)]
    alone_each = np.concatenate([apart.step([item]).copy() for item in work])
    runs: list[int] = []
    real = engine._run
    monkeypatch.setattr(engine, "_run", lambda batch, piece: (runs.append(len(batch) + (piece is not None)), real(batch, piece)))

    together = engine.step(work)
    assert together.tobytes() == alone_each.tobytes()
    assert runs == [1, 3]
    engine.close()
    apart.close()


def test_a_piece_that_rests_moves_with_its_row() -> None:
    """Rows that answer lie side by side: whose slot lies between them is moved with the keys and values that its piece has so far."""
    engine, prompt, found = slots(rows=3, prefix_cache=False), RANDOM[:40], []
    for between in (False, True):
        others = (0, 2) if between else (0, 1)
        mine = 1 if between else 2
        for row in sorted((*others, mine)):
            engine.admit(row, prompt if row == mine else RANDOM[50 + others.index(row) :][:30], "")
        for at, row in enumerate(others):
            engine.step([Work(row, RANDOM[50 + at :][:30], 1)])
        slot = engine._rows[mine].slot
        engine.step([Work(mine, prompt[:20], 0)])
        for begin in range(engine.stages):
            stages = Stages(begin, begin + 1, engine.stages)
            assert all(engine.extend(row, 1) for row in others)
            beside = [Work(row, [9], 1) for row in (others if begin else others[:1])]  # the first stage before any move
            logits = engine.step([*beside, Work(mine, prompt[20:], int(stages.last), stages)]).copy()
        assert (engine._rows[mine].slot != slot) == between
        found.append(logits[-1])
        for row in (*others, mine):
            engine.withdraw(row)
    engine.close()
    assert found[0].tobytes() == found[1].tobytes()


@pytest.mark.parametrize(
    ("most", "halves", "stages", "attending"), [(1, 1, 1, {0}), (16, 2, 2, {0, 1}), (2, 1, 2, {0, 1}), (16, 1, 4, {0, 2})]
)
def test_stages_are_layers_or_as_many_halves_of_them_as_keep_to_the_most(
    monkeypatch: pytest.MonkeyPatch, most: int, halves: int, stages: int, attending: set[int]
) -> None:
    """As in the paged engine, in the file's own form: each sum fused with the norm behind it."""
    monkeypatch.setattr("pilothouse.engines.stages.MOST", most)
    monkeypatch.setattr(slots_stages, "HALVES", halves)
    graph = slots_graph.read(pocket.FOLDER)
    assert len(graph.pieces) == stages
    assert {stage for stage, piece in enumerate(graph.pieces) if piece.past} == attending
    assert sum(len(piece.past) for piece in graph.pieces) == len(graph.rows.past)


def unfused(model: onnx.ModelProto, most: int) -> None:
    """Make sums and norms of the first `most` nodes that are both, as exports before the fusion have them."""
    graph = model.graph
    fused = [node for node in graph.node if node.op_type == "SkipSimplifiedLayerNormalization"][:most]
    for node in fused:
        total = node.output[3] if len(node.output) > 3 and node.output[3] else f"{node.name}/sum"
        place = list(graph.node).index(node)
        graph.node.remove(node)
        norm = onnx.helper.make_node("SimplifiedLayerNormalization", [total, node.input[2]], [node.output[0]], name=node.name, axis=-1)
        norm.attribute.extend(attribute for attribute in node.attribute if attribute.name == "epsilon")
        graph.node.insert(place, norm)
        graph.node.insert(place, onnx.helper.make_node("Add", list(node.input[:2]), [total], name=total))


@pytest.mark.parametrize(("most", "widths"), [(0, [2, 2, 2]), (2, [1, 1, 2]), (4, [1, 1, 1])])
def test_a_piece_rests_in_a_sum_and_in_what_is_fused_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, widths: list[int]
) -> None:
    """One tensor goes on behind a sum, two behind one that is fused with a norm: whichever they are, the logits are those of the whole."""
    monkeypatch.setattr(slots_stages, "HALVES", 1)
    folder = edited(pocket.FOLDER, tmp_path / "unfused", lambda model: unfused(model, most))
    assert [len(place) for place in slots_graph.read(folder).places] == widths
    engine = slots(folder, prefix_cache=False)
    whole, rested = (forced_logits(engine, RANDOM[:40], RANDOM[40:50], chunk=19, resting=resting) for resting in (False, True))
    engine.close()
    assert whole.tobytes() == rested.tobytes()


def test_nothing_rests_where_the_width_between_layers_is_not_said(tmp_path: Path) -> None:
    """There is one stage then, and everything else is as it was."""
    shutil.copytree(pocket.FOLDER, tmp_path / "model")
    config = json.loads((tmp_path / "model/genai_config.json").read_text())
    del config["model"]["decoder"]["hidden_size"]
    (tmp_path / "model/genai_config.json").write_text(json.dumps(config))
    engines = slots(), slots(tmp_path / "model")
    assert [engine.stages for engine in engines] == [2, 1]
    staged, whole = (forced_logits(engine, RANDOM[:40], RANDOM[40:50]) for engine in engines)
    assert staged.tobytes() == whole.tobytes()


def test_a_run_may_be_longer_than_the_context() -> None:
    """Rows that answer and a piece that fills its context are more tokens than any row can have."""
    engine = slots(context=32, rows=4)
    for row in range(3):
        engine.admit(row, RANDOM[:8], "")
        engine.step([Work(row, RANDOM[:8], 1)])
    expected = engine.step([Work(0, [9], 1)]).copy()
    engine.rollback(0, 1)
    engine.admit(3, RANDOM[:31], "")

    logits = engine.step([*(Work(row, [9], 1) for row in range(3)), Work(3, RANDOM[:31], 1)])
    assert [row.tobytes() for row in logits[:3]] == [expected.tobytes()] * 3
    engine.close()


def test_a_row_that_leaves_gives_its_memory_back() -> None:
    """Slots are as long as the context, but only computed tokens take memory, and only while their row is there."""

    def resident() -> int:
        return int(re.search(r"Anonymous:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text())[1]) // 1024  # type: ignore[index]  # always there

    engine = slots(context=4096, rows=16, kv_memory_bytes=1 << 30, prefix_cache=False)  # 2 KiB a token: 128 MiB if slots were allocated
    engine.warm_up()
    before = resident()
    for _ in range(3):
        for row in range(8):
            engine.admit(row, (5,) * 2048, "")
            for begin in range(0, 2048, 512):
                engine.step([Work(row, (5,) * 512, int(begin == 1536))])
        during = resident()
        for row in range(8):
            engine.withdraw(row)
        after = resident()
        assert during - before >= 30  # MiB: 8 rows of 2048 tokens are 32
        assert after - before < 15
    engine.close()


def test_the_store_holds_what_was_used_last() -> None:
    """Prefixes beyond its share of the memory push the oldest out; what was loaded again counts as used."""
    token = slots().describe()["kv_bytes_per_token"]
    engine = slots(kv_memory_bytes=16 * BLOCK * token)  # a quarter of it: four blocks
    assert engine.describe()["prefix_blocks"] == 4

    def ask(value: int) -> int:
        prompt = (value,) * (BLOCK + 1)
        cached = engine.admit(0, prompt, "")
        assert cached is not None
        engine.step([Work(0, prompt[cached:], 1)])
        engine.withdraw(0)
        return cached

    assert [ask(v) for v in (1, 2, 3, 4)] == [0, 0, 0, 0]
    assert ask(1) == BLOCK  # used again: now 2 is the oldest
    assert ask(5) == 0
    assert [ask(v) for v in (1, 3, 4, 5)] == [BLOCK] * 4
    assert ask(2) == 0
    engine.close()


def test_a_prompt_longer_than_the_store_keeps_its_beginning() -> None:
    """The first blocks are worth most: the end of a long text never pushes out its own beginning."""
    token = slots().describe()["kv_bytes_per_token"]
    engine = slots(kv_memory_bytes=16 * BLOCK * token)
    prompt = tuple(RANDOM[: 6 * BLOCK])
    first = alone(engine, prompt, 4)
    assert engine.admit(0, prompt, "") == 4 * BLOCK
    engine.withdraw(0)

    assert play(engine, [Part(prompt, 4)], [()]) == [first]
    engine.close()
