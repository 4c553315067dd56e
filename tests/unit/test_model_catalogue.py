"""model.toml, the catalogue, and which model is chosen."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkteams_daemon.config import Config
from vkteams_daemon.embedding import catalogue, model_info
from vkteams_daemon.embedding.catalogue import CATALOGUE
from vkteams_daemon.embedding.model_info import FileRecord, ModelInfo, Settings
from vkteams_daemon.errors import CannotCreate, ConfigError, ModelAbsent, ModelRefused
from vkteams_daemon.options import Embedding

FILES = {model_info.ONNX: FileRecord("a" * 64, 7), model_info.TOKENIZER: FileRecord("b" * 64, 9)}
INFO = ModelInfo("x", 32, 64, "mean", "int8", "", "", "f" * 64, FILES)


def config(models_dir: Path, *models: str) -> Config:
    return Config(embedding=Embedding(models_dir=str(models_dir), models=models))


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    cosine=st.none() | st.floats(0, 1),
)
def test_description_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, text: str, cosine: float
) -> None:
    directory = tmp_path_factory.mktemp("model")
    info = dataclasses.replace(INFO, query_prefix=text, source=text, cosine_mean=cosine, directory=directory)
    model_info.write(info)
    assert model_info.read(directory) == info


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "x"', ""),
        ("dims = 32", 'dims = "many"'),
        ('precision = "int8"', 'precision = "int4"'),
        ('[files."tokenizer.json"]', '[files."other.json"]'),
        ('[files."tokenizer.json"]', '[files."tokenizer.json"]\nsha256 = "twice"'),
        ('[files."tokenizer.json"]', '[files."../tokenizer.json"]\nsha256 = ""\nsize = 1\n[files."tokenizer.json"]'),
        ('[files."tokenizer.json"]', '[files."a\\u0000b"]\nsha256 = ""\nsize = 1\n[files."tokenizer.json"]'),
        ('name = "x"', 'name = "\x00"'),
    ],
)
def test_a_broken_description_is_refused(tmp_path: Path, old: str, new: str) -> None:
    model_info.write(dataclasses.replace(INFO, directory=tmp_path))
    file = tmp_path / model_info.MODEL_TOML
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ModelRefused, match=r"model\.toml") as caught:
        model_info.read(tmp_path)
    assert "vkteamsctl model install" in caught.value.hint


def test_hashes_find_a_change_that_sizes_do_not(tmp_path: Path) -> None:
    for name in (model_info.ONNX, model_info.TOKENIZER):
        (tmp_path / name).write_bytes(b"content of a file")
    info = dataclasses.replace(INFO, files=model_info.record_files(tmp_path), directory=tmp_path)
    model_info.check_hashes(info)
    (tmp_path / model_info.ONNX).write_bytes(b"content of a FILE")
    model_info.check_sizes(info)
    with pytest.raises(ModelRefused, match=r"model\.onnx: is not the file that was installed"):
        model_info.check_hashes(info)
    (tmp_path / model_info.ONNX).unlink()
    with pytest.raises(ModelRefused, match="cannot be read"):
        model_info.check_sizes(info)


def test_fingerprint_covers_everything_that_decides_a_vector() -> None:
    base = ("w" * 64, "t" * 64, {"hidden_size": 32}, Settings(64, "mean", "q: ", "p: "))
    same = model_info.fingerprint(*base)
    assert re.fullmatch("[0-9a-f]{64}", same) and same == model_info.fingerprint(*base)
    others = [
        ("x" * 64, *base[1:]),
        (base[0], "u" * 64, *base[2:]),
        (*base[:2], {"hidden_size": 33}, base[3]),
        *((*base[:3], dataclasses.replace(base[3], **{name: value})) for name, value in (
            ("max_tokens", 65), ("pooling", "cls"), ("query_prefix", ""), ("passage_prefix", ""),
        )),
    ]  # fmt: skip
    assert len({same, *(model_info.fingerprint(*other) for other in others)}) == 1 + len(others)


def test_every_entry_is_pinned_to_commit_and_hashes() -> None:
    assert catalogue.RECOMMENDED in CATALOGUE and "all-MiniLM-L6-v2" in CATALOGUE
    for name, entry in CATALOGUE.items():
        assert entry.name == catalogue.check_name(name)
        assert re.fullmatch("[0-9a-f]{40}", entry.revision)
        assert set(entry.files) == {"config.json", "model.safetensors", "tokenizer.json"}
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in entry.files.values())
        assert entry.note and entry.languages and entry.repository.count("/") == 1
    digests = [digest for entry in CATALOGUE.values() for digest in entry.files.values()]
    assert len(set(digests)) == len(digests)
    assert "no Russian paraphrase" in CATALOGUE["all-MiniLM-L6-v2"].note


def test_configured_models_override_the_default_file(tmp_path: Path) -> None:
    assert catalogue.chosen_names(config(tmp_path)) == ()
    assert catalogue.chosen_names(config(tmp_path / "absent")) == ()
    (tmp_path / "default").write_text("tiny\n\n other \ntiny\n")
    assert catalogue.chosen_names(config(tmp_path)) == ("tiny", "other")
    assert catalogue.chosen_names(config(tmp_path, "third", "tiny", "third")) == ("third", "tiny")
    for wrong in ("../../etc/passwd\n", "tiny\nand more\n", "\n", ""):
        (tmp_path / "default").write_text(wrong)
        with pytest.raises(ConfigError, match="holds no model's name"):
            catalogue.chosen_names(config(tmp_path))
    (tmp_path / "default").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        catalogue.chosen_names(config(tmp_path))


def test_only_installed_models_are_found_and_chosen(models_dir: Path, tmp_path: Path) -> None:
    assert catalogue.find_directory(models_dir, "tiny") == models_dir / "tiny"
    assert [info.name for info in catalogue.installed_models(models_dir)] == ["tiny"]
    assert catalogue.installed_models(tmp_path / "absent") == []
    for name in ("absent", "../tiny", "", "."):
        with pytest.raises(ModelAbsent, match="is not installed") as caught:
            catalogue.find_directory(models_dir, name)
        assert "(tiny installed)" in str(caught.value)
    with pytest.raises(ModelAbsent):
        catalogue.choose(tmp_path, ["tiny"])
    assert not (tmp_path / "default").exists()


def test_a_model_that_cannot_be_read_is_left_out(models_dir: Path, tmp_path: Path) -> None:
    for name in ("good", "broken", ".installing-x"):
        (tmp_path / name).mkdir()
        model_info.write(dataclasses.replace(INFO, name=name, directory=tmp_path / name))
    (tmp_path / "broken" / model_info.MODEL_TOML).write_text("name = ")
    assert [info.name for info in catalogue.installed_models(tmp_path)] == ["good"]
    assert [info.name for info in catalogue.choose(tmp_path, ["good", "good"])] == ["good"]
    assert (tmp_path / "default").read_text() == "good\n"
    with pytest.raises(ModelRefused):
        catalogue.choose(tmp_path, ["good", "broken"])
    assert (tmp_path / "default").read_text() == "good\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".installing-x", "broken", "default", "good"]


def test_default_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    model_info.write(dataclasses.replace(INFO, name="good", directory=tmp_path / "good"))
    (tmp_path / "default").mkdir()
    with pytest.raises(CannotCreate, match="default: cannot be written"):
        catalogue.choose(tmp_path, ["good"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["default", "good"]


def test_asking_for_the_chosen_model_loads_nothing_heavy() -> None:
    code = (
        "import sys; from vkteams_daemon.embedding import catalogue; from vkteams_daemon.config import Config;"
        "catalogue.chosen_names(Config());"
        "print([m for m in ('numpy', 'onnxruntime', 'tokenizers', 'onnx', 'requests') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_model_counts_as_it_reads_the_language() -> None:
    weight = catalogue.weight
    assert weight("all-MiniLM-L6-v2", "почему proxy не отвечает") == 0
    assert weight("multilingual-e5-small", "почему proxy не отвечает") > 0
    assert (
        weight("all-MiniLM-L6-v2", "why is the proxy down")
        > weight("multilingual-e5-small", "why is the proxy down")
        > 0
    )
    assert weight("a model of somebody", "что угодно") == weight("a model of somebody", "anything") == 0.5
