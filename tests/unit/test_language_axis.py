"""A question finds answers in the other language: a query is as near to one language as to the other."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from vkteams_daemon.embedding import model_info
from vkteams_daemon.embedding.install import axis_measurement, installer
from vkteams_daemon.embedding.install.samples import TRANSLATIONS
from vkteams_daemon.embedding.language_axis import LanguageAxis, query_vector
from vkteams_daemon.embedding.model import Model, Vectors
from vkteams_daemon.errors import ModelRefused

DIMS = 32


class Reader:
    """A model whose vectors are a text's meaning, and its language along the first number."""

    def __init__(self, *, reads_russian: bool) -> None:
        self.english = dict(TRANSLATIONS) if reads_russian else {}

    def embed(self, texts: Sequence[str]) -> Vectors:
        return np.array([self._vector(text) for text in texts], np.float32)

    def _vector(self, text: str) -> Vectors:
        meaning = self.english.get(text, text).encode()
        vector = np.random.default_rng(list(meaning)).standard_normal(DIMS)
        vector[0] = 0
        vector /= np.linalg.norm(vector)
        vector[0] = 0.5 if any("а" <= letter <= "я" for letter in text) else -0.5
        return vector / np.linalg.norm(vector)


def test_the_axis_separates_the_languages() -> None:
    axis = axis_measurement.language_axis(Reader(reads_russian=True).embed)
    assert axis and len(axis.direction) == DIMS and axis.direction[0] > 0.99
    assert (axis.russian, axis.english) == pytest.approx((0.447, -0.447), abs=0.05)


def test_a_model_of_one_language_has_none() -> None:
    assert axis_measurement.language_axis(Reader(reads_russian=False).embed) is None
    assert axis_measurement.language_axis(lambda texts: np.ones((len(texts), DIMS), np.float32)) is None


def _cosines(query: str, texts: Sequence[str]) -> list[float]:
    reader = Reader(reads_russian=True)
    [vector], messages = reader.embed([query]), reader.embed(texts)
    lifted = query_vector(vector.tolist(), axis_measurement.language_axis(reader.embed))
    return [lifted.cosine(message @ lifted.plain, message @ lifted.level) for message in messages]


def test_a_translation_is_nearer_than_other_texts_of_the_same_language() -> None:
    for russian, english in TRANSLATIONS[:8]:
        others = [pair[0] for pair in TRANSLATIONS[8:]]
        asked_in_russian = _cosines(russian, [english, *others])
        assert max(asked_in_russian[1:]) < asked_in_russian[0] <= 1
        asked_in_english = _cosines(english, [russian, *(pair[1] for pair in TRANSLATIONS[8:])])
        assert max(asked_in_english[1:]) < asked_in_english[0] <= 1


def test_messages_of_one_language_keep_their_cosines() -> None:
    reader = Reader(reads_russian=True)
    texts = [russian for russian, _ in TRANSLATIONS]
    plain = reader.embed(texts) @ reader.embed(texts[:1])[0]
    assert _cosines(texts[0], texts) == pytest.approx(plain.tolist(), abs=1e-5)


def test_a_query_without_an_axis_is_compared_as_it_is() -> None:
    axis = LanguageAxis((1.0, *[0.0] * (DIMS - 1)), 0.2, 0.0)
    level = [0.0, 1.0, *[0.0] * (DIMS - 2)]
    for vector in (query_vector(level, axis), query_vector([0.0] * DIMS, axis), query_vector(level, None)):
        assert vector.level == vector.plain and vector.cosine(0.25, 0.5) == 0.25


def test_the_description_of_a_model_has_its_axis(tiny_model_dir: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_model_dir, directory)
    plain = Model.load(directory).query("сервер упал ночью")
    axis = LanguageAxis(tuple(float(number) for number in np.eye(32)[0]), 0.25, -0.125)
    info = dataclasses.replace(model_info.read(directory), language_axis=axis)
    model_info.write(info)
    assert model_info.read(directory).language_axis == axis
    query = Model.load(directory).query("сервер упал ночью")
    assert query.plain == plain.plain and query.level[0] == pytest.approx(0, abs=1e-6)
    assert query.lift == pytest.approx(0.375 * abs(plain.plain[0])) and query.middle == pytest.approx(0.0625)

    model_info.write(dataclasses.replace(info, language_axis=dataclasses.replace(axis, direction=(1.0,))))
    with pytest.raises(ModelRefused, match="its language axis does not have 32 numbers"):
        model_info.read(directory)


def test_an_installation_measures_it(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_info.read(tiny_model_dir).language_axis is None, "this model knows no translation"
    axis = LanguageAxis((1.0, *[0.0] * 31), 0.5, 0.25)
    monkeypatch.setattr(axis_measurement, "language_axis", lambda embed: axis if embed(["x"]).any() else None)
    info = installer.install(str(tiny_model_dir), tmp_path)
    assert info.language_axis == axis == model_info.read(info.directory).language_axis
