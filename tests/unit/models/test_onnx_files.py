"""What an ONNX file reads and holds, compared with the onnx package's own reading."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pilothouse.errors import ModelError
from pilothouse.models import onnx_files, pocket


def external(location: str, name: str = "w", **more: str) -> TensorProto:
    """A tensor whose data lies in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def nested(location: str) -> dict[str, onnx.ModelProto]:
    """The same external tensor at every place of a model where one may stand."""
    inner = helper.make_graph([], "inner", [], [], [external(location)])
    sparse = onnx.SparseTensorProto(values=external(location), dims=[2])
    node = helper.make_node("Constant", [], ["c"], value=external(location))
    listed = helper.make_node("X", [], ["c"], many=[external(location)])
    branch = helper.make_node("If", ["x"], ["y"], then_branch=inner)
    sparse_node = onnx.NodeProto(op_type="X")
    sparse_node.attribute.add(name="s", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.CopyFrom(sparse)
    model = onnx.ModelProto
    function = onnx.FunctionProto(name="f", domain="d")
    function.node.append(node)
    training = onnx.TrainingInfoProto(algorithm=inner)
    return {
        "initializer": model(graph=inner),
        "constant": model(graph=helper.make_graph([node], "g", [], [])),
        "list of tensors": model(graph=helper.make_graph([listed], "g", [], [])),
        "branch": model(graph=helper.make_graph([branch], "g", [], [])),
        "sparse initializer": model(graph=onnx.GraphProto(sparse_initializer=[sparse])),
        "sparse attribute": model(graph=onnx.GraphProto(node=[sparse_node])),
        "function": model(functions=[function]),
        "training": model(training_info=[training]),
    }


def save(model: onnx.ModelProto, folder: Path) -> Path:
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    return file


@pytest.mark.parametrize("place", nested("x"))
def test_an_external_file_is_found_wherever_it_is_named(tmp_path: Path, place: str) -> None:
    """Initializers, constants, branches, sparse tensors, functions, training: no place is overlooked."""
    assert onnx_files.external_files(save(nested("weights/a b.bin")[place], tmp_path)) == {"weights/a b.bin"}


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "a/../../b", "C:\\secret", "..\\secret", "\\\\host\\share", "", "~/../../x", "."]
)
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    """The runtimes would open whatever file is named there."""
    with pytest.raises(ModelError, match=r"^model\.onnx: its external data .* (lies outside the model's folder|is missing)"):
        onnx_files.check(save(nested(location)["initializer"], tmp_path))


def test_external_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A half-copied folder is the usual reason, and the way out is said."""
    with pytest.raises(ModelError) as refused:
        onnx_files.check(save(nested("model.onnx.data")["initializer"], tmp_path))
    assert str(refused.value) == "model.onnx: its external data 'model.onnx.data' is missing; copy the whole folder"


def test_external_data_beside_the_file_is_fine(tmp_path: Path) -> None:
    """The form that the model builder writes."""
    (tmp_path / "model.onnx.data").write_bytes(b"12345678")
    onnx_files.check(save(nested("model.onnx.data")["initializer"], tmp_path))


def test_the_pocket_s_weights_are_those_that_the_onnx_package_reads() -> None:
    """Names, shapes and every number."""
    file = pocket.FOLDER / "model.onnx"
    mine = onnx_files.weights(file)
    theirs = {t.name: numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer}
    assert {name: array for name, array in mine.items() if name in theirs}.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(mine[name], array)


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 40, b"not an onnx file at all", b"\x3a\x10\x0a"])
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    """Empty, cut or foreign: one sentence, never a crash."""
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"^model\.onnx is (empty|not a whole ONNX file); copy the model again$"):
        onnx_files.external_files(tmp_path / "model.onnx")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_but_never_crashes(tmp_path: Path, data: st.DataObject) -> None:
    """Any cut and any flipped byte."""
    whole = bytearray(nested("model.onnx.data")["branch"].SerializeToString())
    del whole[data.draw(st.integers(1, len(whole))) :]
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(0, 255))
    (tmp_path / "model.onnx").write_bytes(bytes(whole))
    answer: Any = None
    try:
        answer = onnx_files.external_files(tmp_path / "model.onnx")
    except ModelError:
        answer = set()
    assert isinstance(answer, set)


def test_graphs_nested_without_end_are_refused(tmp_path: Path) -> None:
    """A graph in a graph in a graph: bounded, not a stack overflow."""
    graph = b""
    for _ in range(200):  # attribute.g in node.attribute in graph.node
        for field in (6, 5, 1):
            length, size = len(graph), b""
            while length >= 0x80:
                size += bytes([length & 0x7F | 0x80])
                length >>= 7
            graph = bytes([field << 3 | 2]) + size + bytes([length]) + graph
    length, size = len(graph), b""
    while length >= 0x80:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    (tmp_path / "model.onnx").write_bytes(bytes([7 << 3 | 2]) + size + bytes([length]) + graph)
    with pytest.raises(ModelError, match="is not a whole ONNX file"):
        onnx_files.external_files(tmp_path / "model.onnx")
