"""A deep model out of a shallow one: the layers of an exported ONNX folder repeated, each with a copy of its weights in the file.

What loading costs depends on how many layers there are and how large, not on what is in them; so the depth of the whole model is there in
seconds, without a checkpoint of that size.
"""

import json
import re
import shutil
from pathlib import Path

import onnx

LAYER = re.compile(r"(?<=layers\.)(\d+)(?=[./])|(?<=past_key_values\.)(\d+)(?=\.)|(?<=present\.)(\d+)(?=\.)")
PAGE = 4096


def deepen(source: Path, target: Path, layers: int) -> Path:
    """Write `source`, an export of onnxruntime-genai's model builder with at least two layers, to `target` with so many; answers `target`."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if not file.name.startswith("model.onnx"):
            shutil.copy(file, target)
    model = onnx.load(source / "model.onnx", load_external_data=False)
    graph = model.graph
    config = json.loads((source / "genai_config.json").read_text())
    have = config["model"]["decoder"]["num_hidden_layers"]
    origin = [index if index < have else 1 + (index - 1) % (have - 1) for index in range(layers)]  # the first is unlike the others

    def moved(name: str, of: int, to: int) -> str:
        return LAYER.sub(lambda found: str(int(found[0]) + to - of), name)

    before = [node for node in graph.node if _layer(node.name) is None and node.output[0] != "logits"]
    after = [node for node in graph.node if _layer(node.name) == have or node.output[0] == "logits"]
    nodes = list(before)
    for index, of in enumerate(origin):
        nodes += [_copy(node, lambda name, of=of, to=index: moved(name, of, to)) for node in graph.node if _layer(node.name) == of]
    nodes += [_copy(node, lambda name: moved(name, have, layers) if _layer(name) is not None else name) for node in after]
    tensors = []
    with (source / "model.onnx.data").open("rb") as weights, (target / "model.onnx.data").open("wb") as out:
        for index, of in [(None, None), *enumerate(origin), (layers, have)]:
            for tensor in graph.initializer:
                if _layer(tensor.name) != of:
                    continue
                made = onnx.TensorProto()
                made.CopyFrom(tensor)
                made.name = tensor.name if of is None else moved(tensor.name, of, index)
                place = {entry.key: entry for entry in made.external_data}
                if place:
                    weights.seek(int(place["offset"].value))
                    out.seek(-(-out.tell() // PAGE) * PAGE)
                    place["offset"].value = str(out.tell())
                    out.write(weights.read(int(place["length"].value)))
                tensors.append(made)
    for values in (graph.input, graph.output):
        kept = [value for value in values if _layer(value.name) is None]
        many = [
            _renamed(value, moved(value.name, of, index)) for index, of in enumerate(origin) for value in values if _layer(value.name) == of
        ]
        del values[:]
        values.extend(kept + many)
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    (target / "model.onnx").write_bytes(model.SerializeToString())
    config["model"]["decoder"]["num_hidden_layers"] = layers
    (target / "genai_config.json").write_text(json.dumps(config, indent=1))
    return target


def _layer(name: str) -> int | None:
    found = LAYER.search(name)
    return int(found[0]) if found else None


def _copy(node, rename):  # type: ignore[no-untyped-def]  # onnx has no types
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.name = rename(node.name)
    for names in (made.input, made.output):
        names[:] = [rename(name) for name in names]
    return made


def _renamed(value, name: str):  # type: ignore[no-untyped-def]  # onnx has no types
    made = onnx.ValueInfoProto()
    made.CopyFrom(value)
    made.name = name
    return made
