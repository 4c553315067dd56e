"""Our own Unigram tokenizer cuts as the library does, and only the form of tokenizer.json that we write is its own."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.harness.blocks import write_block_file
from vkteams_daemon.embedding import tokenizer, unigram
from vkteams_daemon.embedding.install.blocks import BLOCKS, write_tokenizer
from vkteams_daemon.embedding.install.samples import sample_texts
from vkteams_daemon.embedding.unigram import Unigram
from vkteams_daemon.errors import ModelRefused

ODD = (
    "", " ", "\n\t", "\u200b", "\u2581", "a", "почему\u200bсервер", "поч\x07ему", " сервер  сервер ", "\ufeffсервер",
    "\uff41\uff42 \u00bd \ufb01 №", "<s> </s> <unk>", "ё й и\u0306 е\u0308", "\U00020000\U00020001x\U00020002",
    "\U0001f600 сервер\U0001f600\U0001f600", "https://" + "я" * 500, "\ud800 half", "не\u00a0сервер", "queryпочему",
)  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer of a small encoder in blocks."""
    directory = tmp_path_factory.mktemp("blocks")
    write_block_file(directory / BLOCKS)
    write_tokenizer(directory)
    return directory / "tokenizer.json"


def texts() -> list[str]:
    """Texts of people, odd ones, and random ones of letters that Unicode has had for long."""
    made = random.Random(1)
    letters = [*map(chr, range(0x20, 0x530)), "\u2581", *"сервер почему the не "]
    return [*ODD, *sample_texts(), *("".join(made.choices(letters, k=made.randrange(40))) for _ in range(500))]


@pytest.mark.parametrize("prefix", ["", "query: "])
def test_it_cuts_as_the_library_does(file: Path, prefix: str) -> None:
    ours = unigram.load(file)
    assert ours is not None
    library = tokenizer.LibraryTokenizer(tokenizer.load_library(file))
    assert (ours.head, ours.tail, ours.unknown) == (library.head, library.tail, library.unknown) == ((0,), (2,), {3})
    for _ in range(2):  # the second time from memory
        both = zip(texts(), ours.encode(texts(), prefix), library.encode(texts(), prefix), strict=True)
        for text, (ids, lead), (expected, _) in both:
            assert ids == expected, text
            assert lead == len(ours.encode([prefix], "")[0][0]), text


def test_words_are_forgotten_when_they_are_too_many(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = unigram.load(file)
    assert ours is not None
    expected = ours.encode(texts(), "")
    monkeypatch.setattr(unigram, "_REMEMBERED", 3)
    forgetful = unigram.load(file)
    assert forgetful is not None and forgetful.encode(texts(), "") == expected
    assert len(forgetful._known) <= 3


@pytest.mark.parametrize("change", ["normalizer", "pre_tokenizer", "model", "post_processor"])
def test_another_form_is_left_to_the_library(file: Path, tmp_path: Path, change: str) -> None:
    content = json.loads(file.read_text())
    assert isinstance(tokenizer.load(file), Unigram)
    if change == "normalizer":
        content["normalizer"]["normalizers"].append({"type": "Lowercase"})
    elif change == "pre_tokenizer":
        content["pre_tokenizer"]["prepend_scheme"] = "never"
    elif change == "post_processor":
        content["post_processor"] = None
    else:
        vocabulary = {piece: number for number, (piece, _) in enumerate(content["model"]["vocab"])}
        content["model"] = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert isinstance(tokenizer.load(tmp_path / "tokenizer.json"), tokenizer.LibraryTokenizer)


def test_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"[]", b"{}", b"\xff"):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(ModelRefused, match="is not a tokenizer"):
            tokenizer.load(tmp_path / "tokenizer.json")
    with pytest.raises(ModelRefused, match="cannot be read"):
        tokenizer.load(tmp_path / "absent.json")
