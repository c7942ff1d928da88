"""What a folder is, read from its files alone."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.errors import ModelError
from pilothouse.messages import Defaults
from pilothouse.models import pocket, pretrained, reading, source

CONFIG: dict[str, Any] = {"architectures": ["Phi3ForCausalLM"], "max_position_embeddings": 4096, "eos_token_id": 2}


def logged(folder: Path, mlmodel: dict[str, Any]) -> Path:
    """A logged model with this MLmodel file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "MLmodel").write_text(yaml.safe_dump(mlmodel))
    return folder


def onnx_model(folder: Path, *, artifact: str = "artifacts/cpu-int4", **more: Any) -> Path:
    """An ONNX pyfunc as MLflow lays it out."""
    shutil.copytree(pocket.FOLDER, folder / "artifacts" / "cpu-int4")
    pyfunc = {
        "artifacts": {"phi3-mini-onnx": {"path": artifact, "uri": "/elsewhere"}},
        "loader_module": "mlflow.pyfunc.loaders.code_model",
        **more,
    }
    return logged(
        folder,
        {
            "flavors": {"python_function": pyfunc},
            "metadata": {"pilothouse_name": "phi3-mini-onnx", "team": "a"},
            "model_id": "m-1",
            "run_id": "r1",
            "mlflow_version": "3.17.2",
            "signature": {
                "inputs": '[{"type": "string", "name": "prompt", "required": true}]',
                "outputs": '[{"type": "string"}]',
                "params": None,
            },
        },
    )


def pretrained_folder(folder: Path, config: dict[str, Any] | None = None) -> Path:
    """A Hugging Face folder, as far as it is read without torch."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    (folder / "model.safetensors").write_bytes(b"\0")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def chat_model(folder: Path, **transformers: Any) -> Path:
    """A Transformers chat model as MLflow lays it out."""
    pretrained_folder(folder / "model")
    (folder / "model" / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    (folder / "components" / "tokenizer").mkdir(parents=True)
    (folder / "model" / "tokenizer.json").rename(folder / "components" / "tokenizer" / "tokenizer.json")
    flavor = {"task": "text-generation", "model_binary": "model", "inference_task": "llm/v1/chat", **transformers}
    pyfunc = {"loader_module": "mlflow.transformers", "config": {"max_tokens": 99, "temperature": 0.5}}
    return logged(folder, {"flavors": {"transformers": flavor, "python_function": pyfunc}})


def test_a_bare_export_is_an_onnx_model_named_after_its_folder() -> None:
    """The window and the end tokens come from genai_config.json, the defaults are the contract's."""
    described = source.describe(pocket.FOLDER, name="pocket")
    assert (described.kind, described.folder, described.tokenizer_folder) == ("onnx", pocket.FOLDER, pocket.FOLDER)
    assert (described.model_name, described.version, described.architecture) == ("pocket", None, "phi3")
    assert described.context == 4096
    assert described.end_ids == frozenset({2, 5})
    assert described.defaults == Defaults(max_length=300, temperature=0.2)
    assert source.describe(pocket.FOLDER).model_name == "onnx"


def test_a_logged_onnx_pyfunc_is_described_by_its_mlmodel(tmp_path: Path) -> None:
    """Artifact folder, configuration, signature, metadata and ids, as MLflow wrote them."""
    root = onnx_model(tmp_path / "model", config={"max_length": 77, "temperature": 0})
    described = source.describe(root, version="3")
    assert described.kind == "onnx"
    assert described.folder == root / "artifacts" / "cpu-int4"
    assert (described.model_name, described.version) == ("phi3-mini-onnx", "3")
    assert described.defaults == Defaults(max_length=77, temperature=0.0)
    assert described.signature == {
        "inputs": [{"type": "string", "name": "prompt", "required": True}],
        "outputs": [{"type": "string"}],
        "params": None,
    }
    assert described.metadata == {"pilothouse_name": "phi3-mini-onnx", "team": "a"}
    assert (described.model_id, described.run_id, described.mlflow_version) == ("m-1", "r1", "3.17.2")


def test_a_model_logged_the_old_way_is_its_onnx_folder_and_its_pickle_is_never_opened(tmp_path: Path) -> None:
    """The python_model may be anything, even unreadable: only the artifact counts."""
    root = onnx_model(tmp_path / "model", loader_module="mlflow.pyfunc.model", python_model="python_model.pkl")
    (root / "python_model.pkl").mkdir()  # opening it would fail
    described = source.describe(root)
    assert (described.kind, described.folder) == ("onnx", root / "artifacts" / "cpu-int4")


def test_an_artifact_path_from_windows_is_understood(tmp_path: Path) -> None:
    """MLflow wrote that machine's separators."""
    root = onnx_model(tmp_path / "model", artifact="artifacts\\cpu-int4")
    assert source.describe(root).folder == root / "artifacts" / "cpu-int4"


def test_a_logged_chat_model_is_its_weights_and_its_tokenizer(tmp_path: Path) -> None:
    """The flavor says where both lie; the generation config's end tokens win over the model's."""
    root = chat_model(tmp_path / "phi3")
    described = source.describe(root, name="chat")
    assert described.kind == "transformers"
    assert (described.folder, described.tokenizer_folder) == (root / "model", root / "components" / "tokenizer")
    assert (described.architecture, described.context) == ("Phi3ForCausalLM", 4096)
    assert described.end_ids == frozenset({2, 5})
    assert described.defaults == Defaults(max_tokens=99, temperature=0.5)


def test_a_bare_pretrained_folder_is_a_transformers_model(tmp_path: Path) -> None:
    """The same checks, without an MLmodel file."""
    folder = pretrained_folder(tmp_path / "Phi 4 (mini)")
    described = source.describe(folder)
    assert (described.kind, described.folder, described.model_name) == ("transformers", folder, "Phi-4-mini")
    assert described.end_ids == frozenset({2})


@pytest.mark.parametrize(
    ("flavors", "pickled"),
    [
        ({"python_function": {"loader_module": "mlflow.pyfunc.model"}}, True),
        ({"python_function": {"loader_module": "mlflow.pyfunc.loaders.code_model"}}, False),
        ({"python_function": {"loader_module": "mlflow.sklearn"}, "sklearn": {"serialization_format": "cloudpickle"}}, True),
        ({"python_function": {"loader_module": "mlflow.transformers"}, "transformers": {"task": "fill-mask"}}, False),
    ],
)
def test_any_other_pyfunc_is_generic_and_says_whether_it_is_a_pickle(tmp_path: Path, flavors: dict[str, Any], pickled: bool) -> None:
    """Running those takes permissions that the two Phi-3 models never need."""
    described = source.describe(logged(tmp_path / "m", {"flavors": flavors}))
    assert (described.kind, described.pickled) == ("pyfunc", pickled)
    assert described.architecture == flavors["python_function"]["loader_module"]


@pytest.mark.parametrize(
    ("mlmodel", "folder", "name"),
    [
        ({"metadata": {"pilothouse_name": "mine"}, "artifact_path": "model"}, "x", "mine"),
        ({"artifact_path": "phi3-mlflow-model"}, "artifacts", "phi3-mlflow-model"),
        ({"artifact_path": "file:///store/m-7/artifacts", "model_id": "m-7"}, "artifacts", "m-7"),
        ({"artifact_path": "file:///store/m-7/artifacts", "model_id": "m-7"}, "given", "given"),
        ({}, "höher & weiter", "h-her-weiter"),
    ],
)
def test_a_model_s_own_name_is_the_one_it_was_logged_under(tmp_path: Path, mlmodel: dict[str, Any], folder: str, name: str) -> None:
    """Packaging's, else an older MLflow's artifact path, else its id or folder; spelled as the protocols allow."""
    flavors = {"python_function": {"loader_module": "mlflow.sklearn"}}
    assert source.describe(logged(tmp_path / folder, {"flavors": flavors, **mlmodel})).model_name == name


def change_config(**changes: Any) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        file = folder / "genai_config.json"
        config = json.loads(file.read_text())
        for key, value in changes.items():
            if key == "filename":
                config["model"]["decoder"]["filename"] = value
            else:
                config["model"][key] = value
        file.write_text(json.dumps(config))

    return work


REFUSED_EXPORTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "architecture": (
        change_config(type="whisper"),
        "genai_config.json: model.type whisper is not served here; the list is gemma, gemma2, llama, mistral, phi, phi3, qwen2, qwen3",
    ),
    "graph missing": (lambda f: (f / "model.onnx").unlink(), "genai_config.json: model.onnx is missing; copy the whole folder"),
    "weights missing": (
        lambda f: (f / "model.onnx.data").unlink(),
        "model.onnx: its external data 'model.onnx.data' is missing; copy the whole folder",
    ),
    "graph outside": (
        change_config(filename="../model.onnx"),
        "genai_config.json: model.decoder.filename: '../model.onnx' does not lie within the model's folder; log the model again",
    ),
    "window": (
        change_config(context_length="4k"),
        "genai_config.json: model.context_length must be a whole number of tokens, not '4k'; export the model again",
    ),
    "end tokens": (
        change_config(eos_token_id=["</s>"]),
        "genai_config.json: model.eos_token_id must be token ids, not ['</s>']; export the model again",
    ),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        "{f} has no tokenizer.json; export the model again, or copy it from the original model",
    ),
    "no JSON": (lambda f: (f / "genai_config.json").write_text("{"), "{f}/genai_config.json is not JSON; fetch the model again"),
    "another shape": (
        lambda f: (f / "genai_config.json").write_text("[]"),
        "genai_config.json is missing or no mapping; log or export the model again",
    ),
}


@pytest.mark.parametrize("case", REFUSED_EXPORTS)
def test_an_export_that_can_not_be_served_is_refused_by_name(tmp_path: Path, case: str) -> None:
    """Each with the file, the value and the way out."""
    folder = tmp_path / "export"
    shutil.copytree(pocket.FOLDER, folder)
    work, sentence = REFUSED_EXPORTS[case]
    work(folder)
    with pytest.raises(ModelError) as refused:
        source.describe(folder)
    assert str(refused.value) == sentence.replace("{f}", str(folder))


def test_a_folder_above_the_export_is_told_which_one_to_give(tmp_path: Path) -> None:
    """Published models hold several exports side by side."""
    root = onnx_model(tmp_path / "m", artifact="artifacts")
    with pytest.raises(ModelError) as refused:
        source.describe(root)
    assert str(refused.value) == f"{root / 'artifacts'} has no genai_config.json; give one of the folders below it: cpu-int4"


REFUSED_PRETRAINED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": (
        {"architectures": ["EvilForCausalLM"]},
        "config.json: architectures ['EvilForCausalLM'] is not served here; the list is Gemma2ForCausalLM, GemmaForCausalLM, "
        "LlamaForCausalLM, MistralForCausalLM, Phi3ForCausalLM, PhiForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM",
    ),
}


@pytest.mark.parametrize("case", REFUSED_PRETRAINED)
def test_a_pretrained_folder_of_an_unknown_architecture_is_refused(tmp_path: Path, case: str) -> None:
    """Only listed architectures are loaded."""
    config, sentence = REFUSED_PRETRAINED[case]
    with pytest.raises(ModelError) as refused:
        source.describe(pretrained_folder(tmp_path / "hf", config))
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    "asked", [{"auto_map": {"AutoModelForCausalLM": "own.Model"}}, {"text_config": {"auto_map": {"AutoConfig": "own.C"}}}]
)
def test_a_folder_of_the_user_s_own_may_name_code_that_is_never_run(tmp_path: Path, asked: dict[str, Any]) -> None:
    """Microsoft's own Phi-3 folders do; the class on the list is transformers' own."""
    assert source.describe(pretrained_folder(tmp_path / "hf", asked)).architecture == "Phi3ForCausalLM"


@pytest.mark.parametrize("file", ["model/config.json", "components/tokenizer/tokenizer_config.json"])
def test_a_packaged_model_that_names_code_is_refused(tmp_path: Path, file: str) -> None:
    """Packaging leaves no such entry, so somebody else put it there; the tokenizer's is looked for as well."""
    folder = chat_model(tmp_path / "m")
    own = {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    (folder / file).write_text(json.dumps((CONFIG if file.startswith("model/") else {}) | own))

    with pytest.raises(ModelError) as refused:
        source.describe(folder)

    assert str(refused.value) == (
        f"{Path(file).name}: auto_map asks for Python code of the model's own, which is never run; package the model again"
    )


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    """Only safetensors are loaded."""
    folder = pretrained_folder(tmp_path / "hf")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError) as refused:
        source.describe(folder)
    assert str(refused.value) == f"{folder} has no *.safetensors (pickled weights are never loaded); save it with save_pretrained"


@pytest.mark.parametrize("flavor", [{"model_binary": None, "source_model_name": "org/model"}, {"peft_adaptor": "peft"}])
def test_a_chat_model_without_its_weights_is_refused(tmp_path: Path, flavor: dict[str, Any]) -> None:
    """Nothing is fetched from a hub at start."""
    root = chat_model(tmp_path / "m", **flavor)
    with pytest.raises(ModelError) as refused:
        source.describe(root)
    assert str(refused.value) == "MLmodel: the model's weights are not in it; log it with save_pretrained=True and its adapters merged"


@pytest.mark.parametrize("path", ["../outside", "/etc", "C:\\models", "", None, "artifacts/../../outside"])
def test_an_artifact_outside_the_model_is_refused(tmp_path: Path, path: str | None) -> None:
    """An MLmodel file is somebody else's text."""
    (tmp_path / "outside").mkdir()
    root = onnx_model(tmp_path / "model", artifact=path or "")
    with pytest.raises(ModelError, match=r"does not lie within the model's folder; log the model again$"):
        source.describe(root)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("flavors: [", "{f}/MLmodel is not YAML; fetch the model again"),
        ("- 1", "MLmodel is missing or no mapping; log or export the model again"),
        ("a: 1", "MLmodel: flavors is missing or no mapping; log or export the model again"),
        ("flavors: {pytorch: {}}", "MLmodel: the model has no python_function flavor, only pytorch; log it as a pyfunc"),
        (
            "flavors: {python_function: {}}\nsignature: {inputs: '['}",
            "MLmodel: its signature can't be read; log the model again",
        ),
        (
            "flavors: {python_function: {config: 3}}",
            "MLmodel: flavors.python_function.config is missing or no mapping; log or export the model again",
        ),
        ("a: !!python/object/apply:os.system ['true']", "{f}/MLmodel is not YAML; fetch the model again"),
    ],
)
def test_a_broken_mlmodel_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    """Never a traceback, and never an object made from YAML."""
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(ModelError) as refused:
        source.describe(tmp_path)
    assert str(refused.value) == sentence.replace("{f}", str(tmp_path))


def test_what_is_no_model_is_told_what_to_give(tmp_path: Path) -> None:
    """A missing folder and an empty one have their own sentences."""
    with pytest.raises(ModelError) as refused:
        source.describe(tmp_path / "gone")
    assert str(refused.value) == f"{tmp_path / 'gone'} is not a folder; give a model's folder, models:/name@alias or models:/name/version"
    with pytest.raises(ModelError) as refused:
        source.describe(tmp_path)
    assert str(refused.value) == f"{tmp_path} has no MLmodel, genai_config.json or config.json; give the folder that does"


@pytest.mark.parametrize(
    ("config", "defaults"),
    [
        ({}, Defaults()),
        ({"max_length": 10, "temperature": 1, "top_p": 0.5, "top_k": 3}, Defaults(max_length=10, temperature=1.0, top_p=0.5, top_k=3)),
        ({"max_new_tokens": 7}, Defaults(max_tokens=7)),
        ({"max_new_tokens": 7, "max_tokens": 8}, Defaults(max_tokens=8)),
        ({"do_sample": False, "temperature": 0.7}, Defaults(temperature=0.0)),
        ({"stop": "a"}, Defaults(stop=("a",))),
        ({"stop": ["a", "b"], "repetition_penalty": 1.1, "min_p": 0.1}, Defaults(stop=("a", "b"), repetition_penalty=1.1, min_p=0.1)),
        ({"something_of_theirs": object, "max_length": None}, Defaults()),
    ],
)
def test_a_model_s_configuration_becomes_the_defaults_of_its_requests(config: dict[str, Any], defaults: Defaults) -> None:
    """The names that MLflow's two flavors use; others are not ours to judge."""
    assert reading.defaults(config) == defaults


@pytest.mark.parametrize(
    "config",
    [
        {"temperature": -1},
        {"temperature": "hot"},
        {"max_length": 0},
        {"max_length": 1.5},
        {"top_p": 0},
        {"top_p": 2},
        {"top_k": True},
        {"stop": [""]},
        {"stop": 3},
        {"temperature": float("nan")},
        {"max_new_tokens": 0},
        {"repetition_penalty": 0},
    ],
)
def test_a_default_out_of_bounds_is_refused_by_name(config: dict[str, Any]) -> None:
    """The engines' libraries take a temperature of -1 without a word."""
    name = next(iter(config)).replace("max_new_tokens", "max_tokens")
    with pytest.raises(ModelError, match=rf"^model_config: {name} must be "):
        reading.defaults(config)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_a_clean_json_value_never_asks_for_code(value: Any) -> None:
    """The search for auto_map ends and finds only its own keys."""
    assert list(pretrained._asks_for_code(value)) == []
    assert list(pretrained._asks_for_code([value, {"a": {"auto_map": {"x": "y"}}}])) == ["auto_map"]


def test_describing_imports_neither_mlflow_nor_torch() -> None:
    """The ONNX path's start-up and image depend on it."""
    import subprocess

    code = (
        "import sys; from pathlib import Path; from pilothouse.models import manifest, pocket, registry, source; "
        "source.describe(registry.resolve(str(pocket.FOLDER)).folder); manifest.verify(pocket.FOLDER); "
        "print(sorted({'mlflow', 'torch', 'transformers', 'onnx', 'mlserver', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
