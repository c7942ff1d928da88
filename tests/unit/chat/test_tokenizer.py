"""Text to ids and back: raw prompts as the model's makers meant them, streams that never show half a character."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Encoder

from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.errors import InvalidRequest, ModelError
from pilothouse.models import pocket
from support.vocabularies import CONFIG, KINDS, SPECIAL, source

TEXTS = ("", " ", "Madrid", "The capital of Spain is Madrid.", "  two  spaces ", "naïve café", "日本語", "🙂🇪🇸", "a\n\nb\t", "é" * 9, "￿�")
MADE = {kind: Tokenizer(source(kind), config=CONFIG) for kind in KINDS}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return MADE[request.param]


def test_the_pocket_model_is_read_with_its_ends() -> None:
    """genai_config.json beside it names both tokens that close an answer."""
    tokenizer = Tokenizer.from_folder(pocket.FOLDER)
    assert (tokenizer.size, tokenizer.end_ids) == (2048, frozenset({2, 5}))
    assert tokenizer.decode(tokenizer.encode("What is the capital of Spain?")) == "What is the capital of Spain?"
    assert tokenizer.source == (pocket.FOLDER / "tokenizer.json").read_text(encoding="utf-8")


def test_given_ends_go_first(tmp_path: Path) -> None:
    """What the caller read elsewhere, then generation_config.json, then genai_config.json, then the tokenizer's own end token."""
    (tmp_path / "tokenizer.json").write_text(source("byte level"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    assert Tokenizer.from_folder(tmp_path).end_ids == {2}
    (tmp_path / "genai_config.json").write_text('{"model": {"eos_token_id": [2, 5]}}')
    assert Tokenizer.from_folder(tmp_path).end_ids == {2, 5}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 5}')
    assert Tokenizer.from_folder(tmp_path).end_ids == {5}
    assert Tokenizer.from_folder(tmp_path, end_ids={7}).end_ids == {7}


def test_a_missing_or_broken_tokenizer_says_so(tmp_path: Path) -> None:
    """One line that names the file and the way out."""
    with pytest.raises(ModelError, match=r"has no tokenizer\.json; export or fetch the model again"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json can't be read"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff")
    with pytest.raises(ModelError, match=r"tokenizer\.json is not UTF-8"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text(source("byte level"))
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json is not JSON"):
        Tokenizer.from_folder(tmp_path)
    made = json.loads(source("byte level")) | {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}
    with pytest.raises(ModelError, match=r"a kind that is not served \(WordPiece\)"):
        Tokenizer(json.dumps(made))


def test_a_raw_prompt_keeps_its_control_tokens(tokenizer: Tokenizer) -> None:
    """A raw prompt is the caller's whole responsibility: tags in it are tags."""
    ids = tokenizer.encode("<|user|>Hi<|end|><|assistant|>")
    assert [SPECIAL[i] for i in ids if i < len(SPECIAL) and i > 1] == ["<|user|>", "<|end|>", "<|assistant|>"]


def test_a_first_token_is_never_doubled() -> None:
    """The post-processor's <s> is added once, whether the prompt brings it or not."""
    tokenizer = MADE["byte level"]
    assert tokenizer.encode("<s>Hi") == tokenizer.encode("Hi")
    assert tokenizer.encode("Hi")[0] == 1
    assert tokenizer.encode("") == [1]


@pytest.mark.parametrize(
    ("config", "around"),
    [
        ({"add_bos_token": False}, ([], [])),
        ({"add_bos_token": True}, ([1], [])),
        ({"add_bos_token": True, "add_eos_token": True}, ([1], [2])),
    ],
)
def test_the_configuration_says_what_stands_around_a_prompt(config: dict[str, bool], around: tuple[list[int], list[int]]) -> None:
    """`add_bos_token` and `add_eos_token` go before tokenizer.json's post-processor."""
    tokenizer = Tokenizer(source("byte level"), config={**CONFIG, **config})
    inside = tokenizer.encode_plain("Hi", first=True)
    assert tokenizer.encode("Hi") == [*around[0], *inside, *around[1]]


def test_text_that_is_no_unicode_is_refused(tokenizer: Tokenizer) -> None:
    """Half a surrogate pair can come out of JSON escapes."""
    with pytest.raises(InvalidRequest, match="half a surrogate pair"):
        tokenizer.encode("a\ud800b")
    with pytest.raises(InvalidRequest, match="half a surrogate pair"):
        tokenizer.encode_plain("\udfff", first=False)


@pytest.mark.parametrize("text", TEXTS)
def test_streams_join_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    """Token by token or at once: the same text, that of the tokenizers library."""
    ids = tokenizer.encode_plain(text, first=True)
    stream = tokenizer.stream()
    pieces = [stream.step(number) for number in ids] + [stream.finish()]
    library = Encoder.from_str(tokenizer.source)
    assert "".join(pieces) == tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=True)
    if 0 not in ids and tokenizer is not MADE["unigram"]:
        assert tokenizer.decode(ids) == text or text.startswith(" ")


@settings(deadline=None, max_examples=100)
@given(kind=st.sampled_from(KINDS), text=st.text(max_size=40))
def test_any_text_comes_back_as_the_library_says(kind: str, text: str) -> None:
    """For whatever characters."""
    tokenizer = MADE[kind]
    ids = tokenizer.encode_plain(text, first=True)
    assert tokenizer.decode(ids) == Encoder.from_str(tokenizer.source).decode(ids, skip_special_tokens=True)


@settings(deadline=None, max_examples=200)
@given(ids=st.lists(st.integers(0, 602), max_size=30))
def test_any_ids_of_a_byte_level_model_read_as_the_library_says(ids: list[int]) -> None:
    """Broken characters too: U+FFFD for each, in the library's places."""
    tokenizer = MADE["byte level"]
    assert tokenizer.decode(ids) == Encoder.from_str(tokenizer.source).decode(ids, skip_special_tokens=True)


@settings(deadline=None, max_examples=100)
@given(kind=st.sampled_from(KINDS), ids=st.lists(st.integers(0, 900), max_size=30))
def test_no_stream_shows_half_a_character_or_takes_one_back(kind: str, ids: list[int]) -> None:
    """U+FFFD appears only for bytes that can't become a character, ids beyond the vocabulary are nothing, and the joined text is `decode`'s."""
    tokenizer = MADE[kind]
    stream = tokenizer.stream()
    pieces = [stream.step(number) for number in ids]
    raw = b"".join(tokenizer.token_bytes(number) for number in ids if not tokenizer.is_special(number))
    whole = "".join(pieces) + stream.finish()
    assert whole == tokenizer.decode(ids)
    assert whole in (raw.decode(errors="replace"), raw.removeprefix(b" ").decode(errors="replace"))


def test_special_tokens_are_never_shown_and_have_names(tokenizer: Tokenizer) -> None:
    """They are skipped in an answer and named in logprobs."""
    assert tokenizer.decode([5]) == ""
    assert (tokenizer.token_text(5), tokenizer.token_bytes(5)) == ("<|end|>", b"<|end|>")


def test_a_token_keeps_its_leading_space_in_logprobs() -> None:
    """The text of a single token is not the text of an answer that begins with it."""
    tokenizer = MADE["metaspace"]
    token = tokenizer.encode_plain("the the", first=True)[-1]
    assert (tokenizer.token_text(token), tokenizer.token_bytes(token), tokenizer.decode([token])) == (" the", b" the", "the")


def test_parts_of_a_character_have_bytes() -> None:
    """Logprobs carry the raw bytes where the text alone can't."""
    for kind in ("byte level", "metaspace"):
        tokenizer = MADE[kind]
        ids = tokenizer.encode_plain("日", first=False)
        assert b"".join(tokenizer.token_bytes(number) for number in ids).decode().strip() == "日"
        assert tokenizer.token_text(ids[-1]) == "�"


def test_an_id_without_a_token_is_nothing(tokenizer: Tokenizer) -> None:
    """Models pad their vocabulary."""
    assert (tokenizer.token_bytes(100_000), tokenizer.decode([100_000])) == (b"", "")
