"""Packaging the Transformers chat model: what MLflow itself answers with it, and what is refused before it is loaded."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pilothouse.errors import ModelError
from pilothouse.messages import Defaults
from pilothouse.models import chat, manifest, packaging, pocket, pocket_chat, pretrained, registry, source
from pilothouse.models.packaging import CHAT_EXAMPLE, Packaged, Target, package_chat
from pilothouse.models.pocket.answers import ATOM, SPAIN

pytestmark = [
    pytest.mark.transformers,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices: more threads only wait for one another."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket model's Hugging Face form."""
    return pocket_chat.make(tmp_path_factory.mktemp("hf") / "pocket")


@pytest.fixture(scope="module")
def made(hf: Path, store: str) -> Packaged:
    return package_chat(hf, target=Target(tracking_uri=store, register="chat", alias="champion"))


@pytest.fixture(scope="module")
def loaded(made: Packaged) -> Any:
    assert made.folder is not None
    return mlflow.pyfunc.load_model(str(made.folder))


def ask(model: Any, question: str, **fields: Any) -> Any:
    return model.predict({"messages": [{"role": "user", "content": question}], **fields})


def test_mlflow_itself_answers_in_its_chat_form(loaded: Any) -> None:
    """A list of answers offline, each as OpenAI writes them."""
    [answer] = ask(loaded, SPAIN[0])
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": SPAIN[1]}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert (answer["object"], answer["usage"]["total_tokens"]) == (
        "chat.completion",
        answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"],
    )
    assert ask(loaded, ATOM[0])[0]["choices"][0]["message"]["content"] == ATOM[1]


def test_every_field_of_the_contract_is_accepted_offline(loaded: Any) -> None:
    """temperature, max_tokens and stop act; n and stream pass, and MLflow's own predict gives one whole answer whatever they say."""
    [cut] = ask(loaded, SPAIN[0], temperature=0.2, max_tokens=3, stop=["Paris"], n=1, stream=False)
    assert SPAIN[1].startswith(cut["choices"][0]["message"]["content"])
    assert (cut["choices"][0]["finish_reason"], cut["usage"]["completion_tokens"]) == ("length", 3)
    [stopped] = ask(loaded, SPAIN[0], stop=["Madrid"], n=2, stream=True)
    assert stopped["choices"][0]["message"]["content"].startswith("The capital of Spain is")
    assert len(stopped["choices"][0]["message"]["content"]) < len(SPAIN[1])


def test_greedy_is_chosen_when_it_is_packaged(hf: Path, store: str) -> None:
    """Transformers has no temperature 0; do_sample false is its word, and the server reads it as temperature 0."""
    made = package_chat(hf, target=Target(tracking_uri=store), model_config={"temperature": 0, "max_tokens": 50}, name="greedy")
    assert made.folder is not None
    described = source.describe(made.folder)
    assert described.model_config == {"max_tokens": 50, "do_sample": False}
    assert described.defaults == Defaults(max_tokens=50, temperature=0.0)
    assert ask(mlflow.pyfunc.load_model(str(made.folder)), SPAIN[0])[0]["usage"]["completion_tokens"] == 50


def test_the_signature_is_the_one_that_mlflow_gives_for_the_task(loaded: Any) -> None:
    """Messages and every documented field."""
    names = {spec.name for spec in loaded.metadata.signature.inputs.inputs}
    assert {"messages", "temperature", "max_tokens", "stop", "n", "stream"} <= names
    assert loaded.metadata.metadata["task"] == "llm/v1/chat"
    assert loaded.input_example == CHAT_EXAMPLE


def test_it_is_registered_sealed_and_described(made: Packaged, store: str) -> None:
    """The same promises as for the ONNX form."""
    resolved = registry.resolve("models:/chat@champion", tracking_uri=store)
    assert resolved.digest == made.digest
    assert manifest.verify(resolved.folder, expected=resolved.digest) is not None
    described = source.describe(resolved.folder, name=resolved.name, version=resolved.version)
    assert (described.kind, described.model_name, described.architecture) == ("transformers", "chat", "Phi3ForCausalLM")
    assert described.folder == resolved.folder / "model"
    assert described.tokenizer_folder == resolved.folder / "components" / "tokenizer"
    assert described.end_ids == source.describe(pocket.FOLDER).end_ids
    assert described.defaults == Defaults(max_tokens=256, temperature=0.2)
    requirements = (resolved.folder / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in requirements] == ["mlflow", "transformers", "torch", "accelerate"]
    assert {Path(path).suffix for path in made.files} <= {"", ".json", ".yaml", ".txt", ".jinja", ".safetensors"}


def test_the_pocket_is_the_default_and_keeps_its_folder(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Hugging Face form is made from the wheel's ONNX form, once, in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = package_chat(target=Target(tracking_uri=store))
    assert made.folder is not None
    kept = list((tmp_path / "pilothouse").iterdir())
    assert len(kept) == 1
    assert pretrained.architecture(kept[0]) == "Phi3ForCausalLM"


def test_both_forms_of_the_pocket_are_one_network(hf: Path) -> None:
    """Greedy, token for token, over every pair in the table."""
    import onnxruntime_genai as og

    from pilothouse.models.pocket.answers import PAIRS

    pipe = chat.pipeline(hf)
    tokenizer = og.Tokenizer(og.Model(str(pocket.FOLDER)))
    for question, answer in PAIRS[:6]:
        messages = [{"role": "user", "content": question}]
        told = pipe(messages, do_sample=False, max_new_tokens=len(tokenizer.encode(answer)) + 8)
        assert told[0]["generated_text"][-1]["content"] == answer


def evil(hf: Path, folder: Path) -> Path:
    """A folder whose config asks for its own Python, which would leave a trace."""
    shutil.copytree(hf, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(
        f"open({str(folder / 'ran')!r}, 'w')\nfrom transformers import Phi3Config as Config, Phi3ForCausalLM as Model\n"
    )
    return folder


def test_a_folder_that_names_code_is_packaged_without_it(hf: Path, store: str, tmp_path: Path) -> None:
    """The published Phi-3 folders name such code, from before transformers had its own; the saved copy neither names nor holds it."""
    folder = evil(hf, tmp_path / "evil")
    made = package_chat(folder, target=Target(tracking_uri=store))
    assert not (folder / "ran").exists()
    assert made.folder is not None
    assert not [path for path in made.files if path.endswith(".py")]
    assert source.describe(made.folder).architecture == "Phi3ForCausalLM"
    assert ask(mlflow.pyfunc.load_model(str(made.folder)), SPAIN[0])[0]["choices"][0]["message"]["content"] == SPAIN[1]


def test_a_licence_in_the_folder_goes_with_the_model(hf: Path, store: str, tmp_path: Path) -> None:
    """Most licences ask for that."""
    folder = tmp_path / "licensed"
    shutil.copytree(hf, folder)
    (folder / "LICENSE").write_text("Do what you like.\n")
    made = package_chat(folder, target=Target(tracking_uri=store))
    assert made.folder is not None
    assert (made.folder / "LICENSE.txt").read_text() == "Do what you like.\n"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: (f / "chat_template.jinja").unlink(), "{f} has no chat template, and a chat model needs one; add chat_template.jinja"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"\0" * 64),
            "{f} does not load as Phi3ForCausalLM (SafetensorError); save it with save_pretrained",
        ),
        (lambda f: (f / "config.json").unlink(), "{f} has no config.json; give the folder that save_pretrained or a download made"),
    ],
    ids=["template", "weights", "config"],
)
def test_a_folder_that_is_not_whole_is_refused(hf: Path, elsewhere: Path, change: Any, sentence: str) -> None:
    """One line, before a store is made."""
    folder = elsewhere / "broken"
    shutil.copytree(hf, folder)
    change(folder)
    with pytest.raises(ModelError) as refused:
        package_chat(folder)
    assert str(refused.value) == sentence.replace("{f}", str(folder))
    assert [path.name for path in elsewhere.iterdir()] == ["broken"]


def test_a_missing_folder_is_refused(elsewhere: Path) -> None:
    """And nothing is asked of a hub."""
    with pytest.raises(ModelError) as refused:
        package_chat("microsoft/Phi-3-mini-4k-instruct")
    assert str(refused.value) == (
        "microsoft/Phi-3-mini-4k-instruct is not a folder; give the folder that save_pretrained or a download made"
    )


def test_packaging_knows_what_is_installed() -> None:
    """Pins are plain versions, without the local part of a build."""
    pins = packaging.requirements("torch", "no-such-package-anywhere")
    assert [pin.split("==")[0] for pin in pins] == ["torch"]
    assert "+" not in pins[0]
