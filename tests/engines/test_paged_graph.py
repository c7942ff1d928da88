"""Which graphs become paged graphs, that they compute the same, and which are refused by name."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest

from pilothouse.engines import paged_graph
from pilothouse.engines.base import Stages, Work
from pilothouse.engines.paged import PagedStep
from pilothouse.engines.refusals import GraphRefused
from pilothouse.models import pocket
from support.pocket_text import KNOWN, question
from support.reference import assert_close, edited, forced_logits, generator_logits, pruned_head, with_attribute, with_input, without_logits
from support.tiny_models import ORIGINAL, tiny

CARRIED = {
    "phi35": ["long rope"],
    "phi4mini": ["grouped heads", "long rope", "partial rotary"],
    "llama": ["grouped heads"],
    "mistral": ["grouped heads"],
    "qwen2": ["grouped heads"],
    "qwen3": ["grouped heads"],
}
RANDOM = np.random.default_rng(0).integers(10, 500, 200).tolist()


def paged(folder: Path, **changes: object) -> PagedStep:
    values = {"threads": 2, "rows": 2, "context": 256, "kv_memory_bytes": 8 << 20} | changes
    return PagedStep(folder, **values)  # type: ignore[arg-type]  # the table above has the types of the signature


def test_the_private_operator_is_the_known_one() -> None:
    """The paged operator is no public API: its 28 inputs are those of the pinned version, in every layer."""
    assert ov.__version__.startswith("2026.4.1-")
    graph = paged_graph.read(pocket.FOLDER / "model.onnx", 256)
    operators = [node for node in graph.model.get_ops() if node.get_type_name() == "PagedAttentionExtension"]

    assert len(operators) == graph.layers == 2
    assert {node.get_input_size() for node in operators} == {paged_graph.OPERATOR_INPUTS} == {28}


def test_the_paged_graph_takes_flat_batches_and_blocks() -> None:
    """Its inputs are the feeds and two caches a layer, and what differs from stage to stage; its outputs the wanted logits, and the rows that are
    taken out: nothing of the file's own rows is left."""
    graph = paged_graph.read(pocket.FOLDER / "model.onnx", 256)

    caches = [f"{name}_cache.{layer}" for layer in range(2) for name in ("key", "value")]
    taken = ["carried", *(f"coming/{stage}" for stage in range(3)), *(f"leaving/{stage}" for stage in range(1, 3))]
    attention = ["past_lens/2", "subsequence_begins/2"]  # two halves of the first layer, and the second with what is behind it
    assert sorted(x.get_any_name() for x in graph.model.inputs) == sorted([*paged_graph.FEEDS, *caches, *taken, *attention])
    assert [x.get_any_name() for x in graph.model.outputs] == ["logits", "taken"]
    assert graph.stages == 3


@pytest.mark.parametrize(("most", "stages", "attending"), [(1, 1, {0}), (2, 2, {0, 1}), (3, 3, {0, 2}), (16, 3, {0, 2})])
def test_stages_are_halves_of_layers_or_as_many_of_them_as_keep_to_the_most(
    monkeypatch: pytest.MonkeyPatch, most: int, stages: int, attending: set[int]
) -> None:
    """Each stage has as many halves as the others; attention is fed by stage."""
    monkeypatch.setattr("pilothouse.engines.stages.MOST", most)
    graph = paged_graph.read(pocket.FOLDER / "model.onnx", 256)
    fed = {int(name.partition("/")[2] or 0) for name in (x.get_any_name() for x in graph.model.inputs) if name.startswith("past_lens")}

    assert (graph.stages, fed) == (stages, attending)


def products_behind(graph: paged_graph.PagedGraph, name: str) -> list[str]:
    """The matrix products that hang on one of its inputs."""
    todo = [node for node in graph.model.get_parameters() if node.get_friendly_name() == name]
    found: dict[str, str] = {}
    while todo:
        for reader in (target.get_node() for output in todo.pop().outputs() for target in output.get_target_inputs()):
            if reader.get_friendly_name() not in found:
                found[reader.get_friendly_name()] = reader.get_type_name()
                todo.append(reader)
    return sorted(name.rpartition("layers.")[2].removesuffix("/MatMul_Q4") for name, kind in found.items() if kind == "MatMul")


def with_shaped_rows(model: onnx.ModelProto) -> None:
    """Gives what the head takes the shape of the tokens, read from the tokens, as some exporters do."""
    nodes = list(model.graph.node)
    head = next(node for node in nodes if "logits" in node.output)
    width = next(x for x in model.graph.initializer if x.name == "model.embed_tokens.weight").dims[1]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([width]), "width"))
    shaping = [
        onnx.helper.make_node("Shape", ["input_ids"], ["tokens"]),
        onnx.helper.make_node("Concat", ["tokens", "width"], ["wide"], axis=0),
        onnx.helper.make_node("Reshape", [head.input[0], "wide"], ["shaped"]),
    ]
    head.input[0] = "shaped"
    place = nodes.index(head)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *shaping, *nodes[place:]])


def test_behind_the_last_attention_only_wanted_tokens_are_computed(tmp_path: Path) -> None:
    """Nobody looks at a prompt's other tokens there. Where their number is read behind it they are all computed, with the same logits."""
    shaped = edited(pocket.FOLDER, tmp_path / "shaped", with_shaped_rows)
    folders = pocket.FOLDER, shaped
    found = [products_behind(paged_graph.read(folder / "model.onnx", 256), "wanted") for folder in folders]
    assert found == [["1/attn/o_proj", "1/mlp/down_proj", "1/mlp/gate_proj", "1/mlp/up_proj", "logits"], ["logits"]]

    engines = [paged(folder) for folder in folders]
    prompt, answer = RANDOM[:100], RANDOM[100:112]
    narrow, wide = (forced_logits(engine, prompt, answer, chunk=40, drafts=2) for engine in engines)
    for engine in engines:
        engine.close()
    assert np.array_equal(narrow, wide)


def with_learned_positions(model: onnx.ModelProto) -> None:
    """Adds a table of positions to the embedding, as models before rotary ones have it."""
    graph, embedded = model.graph, "/model/embed_tokens/Gather/output_0"
    hidden = next(x for x in graph.initializer if x.name == "model.embed_tokens.weight").dims[1]
    table = np.random.default_rng(0).normal(0, 0.02, (512, hidden)).astype(np.float32)
    for node in graph.node:
        node.input[:] = ["embedded" if name == embedded else name for name in node.input]
    at = next(place for place, node in enumerate(graph.node) if embedded in node.output)
    graph.node.insert(at + 1, onnx.helper.make_node("Gather", ["positions", "position_ids"], ["placed"], name="placed"))
    graph.node.insert(at + 2, onnx.helper.make_node("Add", [embedded, "placed"], ["embedded"], name="embedded"))
    graph.initializer.append(onnx.numpy_helper.from_array(table, "positions"))
    graph.input.append(onnx.helper.make_tensor_value_info("position_ids", onnx.TensorProto.INT64, ["batch_size", "sequence_length"]))


@pytest.mark.parametrize("company", [1, 2])
def test_positions_that_are_read_outside_attention_rest_with_their_tokens(tmp_path: Path, company: int) -> None:
    """A file may have a use of its own for positions: a piece that rests has the logits of the whole there, too."""
    engine = paged(edited(pocket.FOLDER, tmp_path / "learned", with_learned_positions), rows=4, prefix_cache=False)
    prompt, found = RANDOM[:40], []
    for resting in (False, True):
        for row in range(company):
            engine.admit(row, [5, 6, 7 + row], "")
            engine.step([Work(row, [5, 6, 7 + row], 1)])
        engine.admit(3, prompt, "")
        for begin in range(engine.stages) if resting else (0,):
            stages = Stages(begin, begin + 1, engine.stages) if resting else None
            assert all(engine.extend(row, 1) for row in range(company))
            others = [Work(row, [9], 1) for row in range(company)]
            logits = engine.step([*others, Work(3, prompt, int(stages is None or stages.last), stages)]).copy()
        found.append(logits[company:])
        for row in (*range(company), 3):
            engine.withdraw(row)
    assert engine.stages == 3
    engine.close()

    assert np.array_equal(*found)


@pytest.mark.slow
@pytest.mark.transformers
@pytest.mark.timeout(300)
def test_one_row_alone_outgrows_the_original_window() -> None:
    """Long tables stand behind the short ones: positions reach beyond a row's context, and one row is no exception."""
    engines = [paged(tiny("phi35"), rows=rows, context=ORIGINAL + 36) for rows in (1, 2)]
    for engine in engines:
        engine.warm_up()
    prompt = RANDOM[: ORIGINAL + 16]
    one, several = (forced_logits(engine, prompt, RANDOM[100:104]) for engine in engines)

    assert np.array_equal(one, several)


@pytest.mark.slow
@pytest.mark.transformers
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "features"), CARRIED.items())
def test_exports_of_each_kind_compute_what_the_generator_computes(kind: str, features: list[str]) -> None:
    """Same logits as onnxruntime-genai on the same file, for prompts within and beyond the original window, whole and in chunks."""
    folder = tiny(kind)
    engine = paged(folder)
    assert engine.describe()["graph_features"] == features
    assert engine.stages == 3
    for length in (5, 40, ORIGINAL + 16):
        prompt = RANDOM[:length]
        chosen, expected = generator_logits(folder, prompt, 16)
        for chunk in (1000, 7):
            assert_close(forced_logits(engine, prompt, chosen, chunk=chunk), expected)
        assert_close(forced_logits(engine, prompt, chosen, chunk=19, resting=True), expected)
    engine.close()


@pytest.fixture(scope="module", params=["phi35", "phi4mini"])
def long_rope(request: pytest.FixtureRequest) -> Iterator[PagedStep]:
    engine = paged(tiny(request.param))
    yield engine
    engine.close()


@pytest.mark.slow
@pytest.mark.transformers
@pytest.mark.timeout(300)
@pytest.mark.parametrize("drafts", [0, 1, 3, 12])
def test_a_row_that_outgrows_the_original_window_is_computed_anew(long_rope: PagedStep, drafts: int) -> None:
    """Beyond the original window every position is what a prompt of that length gives, before it what a short one gives; drafts or not."""
    text = RANDOM[: ORIGINAL + 10]
    begin = ORIGINAL - 6
    expected = np.concatenate([forced_logits(long_rope, text[:length], [0]) for length in range(begin, len(text))])

    assert_close(forced_logits(long_rope, text[:begin], text[begin:], drafts=drafts), expected, 0.01)


@pytest.mark.slow
@pytest.mark.transformers
@pytest.mark.timeout(300)
def test_a_row_that_is_rolled_back_into_the_original_window_is_short_again(long_rope: PagedStep) -> None:
    """Drafts across the border that turn out wrong leave no trace."""
    text = RANDOM[:ORIGINAL]
    expected = forced_logits(long_rope, text, [0])
    cached = long_rope.admit(0, text[:-2], "")
    long_rope.step([Work(0, text[cached:-2], 1)])
    assert long_rope.extend(0, 8)
    long_rope.step([Work(0, [text[-2], *RANDOM[100:107]], 8)])
    long_rope.rollback(0, 7)
    assert long_rope.extend(0, 1)
    logits = long_rope.step([Work(0, text[-1:], 1)]).copy()
    long_rope.withdraw(0)

    assert_close(logits, expected, 0.01)
    assert long_rope.usage() == 0


@pytest.mark.slow
@pytest.mark.transformers
@pytest.mark.timeout(300)
def test_a_row_that_shares_its_beginning_can_still_outgrow_the_window(long_rope: PagedStep) -> None:
    """Starting over takes blocks of its own: the rows it shared with keep theirs."""
    text = RANDOM[: ORIGINAL + 2]
    expected = np.concatenate([forced_logits(long_rope, text[:length], [0]) for length in (ORIGINAL - 1, ORIGINAL, ORIGINAL + 1)])
    assert long_rope.admit(0, text[: ORIGINAL - 1], "") == 32
    assert long_rope.admit(1, text[: ORIGINAL - 1], "") == 32
    rest = text[32 : ORIGINAL - 1]
    first = long_rope.step([Work(0, rest, 1), Work(1, rest, 1)]).copy()
    logits = [first[:1]]
    for at in (ORIGINAL - 1, ORIGINAL):
        assert long_rope.extend(0, 1)
        logits.append(long_rope.step([Work(0, [text[at]], 1)]).copy())
    assert long_rope.extend(1, 1)
    stayed = long_rope.step([Work(1, [text[ORIGINAL - 1]], 1)]).copy()
    long_rope.withdraw(0)
    long_rope.withdraw(1)

    assert_close(np.concatenate(logits), expected, 0.01)
    assert_close(stayed, expected[1:2], 0.01)


@pytest.mark.slow
@pytest.mark.transformers
@pytest.mark.timeout(300)
def test_within_the_original_window_there_is_one_table() -> None:
    """A context that never leaves it needs no long table, and no row ever starts over."""
    engine = paged(tiny("phi35"), context=ORIGINAL)
    assert engine.describe()["graph_features"] == []
    chosen, expected = generator_logits(tiny("phi35"), RANDOM[:40], 8)
    assert_close(forced_logits(engine, RANDOM[:40], chosen), expected)
    engine.close()


@pytest.mark.slow
@pytest.mark.transformers
@pytest.mark.timeout(300)
def test_a_soft_cap_is_refused_by_name() -> None:
    """Gemma 2 caps its attention's logits, which the paged operator can't: another engine must take it."""
    with pytest.raises(GraphRefused, match="GroupQueryAttention"):
        paged(tiny("gemma2"))


def test_the_rotary_table_ends_the_context() -> None:
    """Positions beyond the file's own table have no rotation: a row never gets there, whatever was asked for."""
    engine = paged(pocket.FOLDER, context=10_000, kv_memory_bytes=64 << 20)
    assert engine.context == 4096
    engine.close()


def test_a_sliding_window_is_carried(tmp_path: Path) -> None:
    """A local window hides older tokens, as it does on onnxruntime."""
    folder = edited(pocket.FOLDER, tmp_path / "window", with_attribute("local_window_size", 9))
    prompt = question(KNOWN[0][0])
    chosen, expected = generator_logits(folder, prompt, 12)
    engine = paged(folder)

    assert engine.describe()["graph_features"] == ["sliding window"]
    assert_close(forced_logits(engine, prompt, chosen), expected)
    whole = paged(pocket.FOLDER)
    assert np.abs(forced_logits(whole, prompt, chosen) - expected).max() > 0.5 * np.abs(expected).max()


def test_a_pruned_head_is_carried(tmp_path: Path) -> None:
    """An export whose head takes the last position only (prune_lm_head) answers at every wanted position here."""

    prompt = question(KNOWN[0][0])
    pruned, whole = paged(edited(pocket.FOLDER, tmp_path / "pruned", pruned_head)), paged(pocket.FOLDER)
    answer = RANDOM[:6]
    assert_close(forced_logits(pruned, prompt, answer, drafts=2), forced_logits(whole, prompt, answer, drafts=2), 1e-3)


def _mask_in_the_logits(model: onnx.ModelProto) -> None:
    head = next(n for n in model.graph.node if "logits" in n.output)
    head.output[0] = "scores"
    model.graph.node.append(onnx.helper.make_node("ReduceSum", ["attention_mask"], ["seen"], keepdims=0))
    model.graph.node.append(onnx.helper.make_node("Cast", ["seen"], ["seen.f"], to=onnx.TensorProto.FLOAT))
    model.graph.node.append(onnx.helper.make_node("Add", ["scores", "seen.f"], ["logits"]))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (with_attribute("rotary_interleaved", 1), "interleaved rotary"),
        (with_attribute("smooth_softmax", 1), "smooth softmax"),
        (with_attribute("softcap", 30.0), "GroupQueryAttention"),
        (with_input(11, "sinks"), "attention sinks"),
        (without_logits, "no output named logits"),
        (_mask_in_the_logits, "depend on the input attention_mask"),
    ],
)
def test_what_is_not_carried_exactly_is_refused_by_name(tmp_path: Path, edit: Callable[[onnx.ModelProto], None], reason: str) -> None:
    """A graph with a part that the paged operator lacks never computes something else: the reason names the part."""
    folder = edited(pocket.FOLDER, tmp_path / "edited", edit)
    with pytest.raises(GraphRefused, match=reason) as refused:
        paged(folder)
    assert refused.value.engine == "paged"


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """Whatever OpenVINO can't read goes to the next engine, without its text."""
    (tmp_path / "model.onnx").write_bytes(b"not an onnx file")
    with pytest.raises(GraphRefused, match="OpenVINO can't read the file"):
        paged(tmp_path)


@pytest.mark.parametrize(("width", "block"), [(64, 32), (128, 64)])
def test_embeddings_that_share_the_heads_weights_are_read_exactly(tmp_path: Path, width: int, block: int) -> None:
    """GatherBlockQuantized, which OpenVINO refuses in this form, gives the very numbers that onnxruntime gives."""
    import onnxruntime as ort

    from pilothouse.engines import paged_operators

    random = np.random.default_rng(0)
    data = random.integers(0, 256, (50, width // block, block // 2), np.uint8)
    scales = random.normal(size=(50, width // block)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Reshape", ["data", "shape"], ["flat"]),
        onnx.helper.make_node(
            "GatherBlockQuantized",
            ["flat", "ids", "scales"],
            ["out"],
            domain="com.microsoft",
            bits=4,
            block_size=block,
            gather_axis=0,
            quantize_axis=1,
        ),
    ]
    kept = {"data": data, "shape": np.array([50, width // 2]), "scales": scales}
    graph = onnx.helper.make_graph(
        nodes,
        "embedding",
        [onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["batch", "length"])],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["batch", "length", width])],
        [onnx.numpy_helper.from_array(array, name) for name, array in kept.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "embedding.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    ids = random.integers(0, 50, (2, 5))
    core = ov.Core()
    core.add_extension(paged_operators.embedding())

    expected = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"ids": ids})[0]
    actual = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(ids)[0]
    np.testing.assert_array_equal(actual, expected)
