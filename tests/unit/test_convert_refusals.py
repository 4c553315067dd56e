"""An encoder that cannot be converted is refused with one sentence; int8 is taken only where it is close and faster."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.harness.models import write_encoder
from vkteams_daemon.embedding.install import acceptance
from vkteams_daemon.embedding.install import convert as conversion
from vkteams_daemon.embedding.install import encoder as encoders
from vkteams_daemon.embedding.install.convert import PrecisionChoice, convert
from vkteams_daemon.embedding.install.encoder import Encoder, Floats
from vkteams_daemon.embedding.install.graph import Graph
from vkteams_daemon.embedding.install.quantise import Int8Layers
from vkteams_daemon.embedding.install.samples import sample_texts
from vkteams_daemon.embedding.model_info import ModelInfo, Settings
from vkteams_daemon.errors import ModelError, ModelRefused


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "encoder")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta"}, "only BertModel can be converted"),
        ({"architectures": ["BertForSequenceClassification"]}, "only BertModel can be converted"),
        ({"architectures": 5}, r"is of a 5 \(bert\)"),
        ({"architectures": [["x"]]}, "only BertModel can be converted"),
        ({"architectures": "T5Model"}, r"is of a T5Model \(bert\)"),
        ({"hidden_act": "relu"}, "activation 'relu' is not known"),
        ({"position_embedding_type": "relative_key"}, "only absolute is known"),
        ({"is_decoder": True}, "only an encoder can be converted"),
        ({"num_attention_heads": 5}, "sizes do not fit together"),
        ({"num_hidden_layers": 0}, "sizes do not fit together"),
        ({"hidden_size": "wide"}, "not a BERT configuration"),
        ({"intermediate_size": 100}, r"intermediate\.dense\.weight is \[64, 32\] and not \[100, 32\]"),
        ({"num_hidden_layers": 3}, r"lacks the tensor encoder\.layer\.2\.attention\.self\.query\.weight"),
    ],
)
def test_another_architecture_is_refused(tmp_path: Path, config: dict[str, object], sentence: str) -> None:
    with pytest.raises(ModelRefused, match=sentence):
        Encoder(write_encoder(tmp_path / "other", config=config))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_or_broken_file_is_named(directory: Path, name: str) -> None:
    (directory / name).write_bytes(b"\x00nothing of the kind")
    with pytest.raises(ModelRefused, match=name):
        convert(Encoder(directory), Settings(64), directory, name="x")
    (directory / name).unlink()
    with pytest.raises(ModelRefused, match=f"holds no {name}"):
        Encoder(directory)


def test_integer_weights_are_refused(directory: Path) -> None:
    file = directory / "model.safetensors"
    save_file({name: tensor.astype("int32") for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ModelRefused, match="is I32; only F16, F32, F64 are known"):
        Encoder(directory)


@pytest.mark.parametrize("number", [math.nan, math.inf, 1e300])
def test_a_weight_that_is_not_finite_is_refused(directory: Path, tmp_path: Path, number: float) -> None:
    file = directory / "model.safetensors"
    tensors = {name: tensor.astype("float64") for name, tensor in load_file(file).items()}
    # No text that the model is tried with has this token.
    tensors["embeddings.word_embeddings.weight"][4, 0] = number
    save_file(tensors, file)
    with pytest.raises(ModelRefused, match=r"word_embeddings\.weight holds a number that is not finite"):
        made(directory, tmp_path, "fp32")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    other = write_encoder(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["vocab"]["zzz"] = 100_000
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(ModelRefused, match="has token ids up to 100000"):
        convert(Encoder(other), Settings(64), tmp_path / "model", name="x")


def test_a_tokenizer_without_a_token_for_the_unknown_is_refused(directory: Path, tmp_path: Path) -> None:
    file = directory / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"]["vocab"]["[OTHER]"] = content["model"]["vocab"].pop("[UNK]")
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[UNK]"]
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelRefused, match=r"tokenizer\.json: cannot make tokens of '.*UNK"):
        made(directory, tmp_path, "fp32")


def test_a_configuration_nested_too_deep_is_refused(directory: Path) -> None:
    (directory / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelRefused, match=r"config\.json: cannot be read"):
        Encoder(directory)


def test_a_model_larger_than_an_onnx_file_is_refused() -> None:
    graph = Graph()
    graph.constant(np.zeros(1000))
    with pytest.raises(ModelRefused, match="at most 2 GiB"):
        graph.constant(np.broadcast_to(np.float32(0), 1 << 29))  # 2 GiB that take no memory


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (Settings(8), "a window of 8 tokens"),
        (Settings(1000), "a window of 1000 tokens is not within 16 and 128"),
        (Settings(64, query_prefix="ищи " * 40), "fills half of the window"),
        (Settings(64, query_prefix="\ud800 "), r"cannot make tokens of '\\ud800 '"),
    ],
)
def test_settings_that_do_not_fit_are_refused(directory: Path, settings: Settings, sentence: str) -> None:
    with pytest.raises(ModelRefused, match=sentence):
        convert(Encoder(directory), settings, directory / "model", name="x")


def test_settings_are_read_from_the_files_beside_the_encoder(directory: Path) -> None:
    shape = Encoder(directory).shape
    assert encoders.read_settings(directory, shape, "x")[0] == Settings(64, "mean")
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 5000}')
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true, "include_prompt": true}')
    prompts = {"prompts": {"query": "query: ", "document": "passage: "}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    assert encoders.read_settings(directory, shape, "x")[0] == Settings(128, "cls", "query: ", "passage: ")
    (directory / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ModelRefused, match="pools by pooling_mode_max_tokens"):
        encoders.read_settings(directory, shape, "x")


def test_prefixes_that_no_file_gives_are_guessed_and_that_is_said(directory: Path) -> None:
    shape = Encoder(directory).shape
    settings, guess = encoders.read_settings(directory, shape, "x")
    assert settings == Settings(64, "mean") and guess == "No file of x gives its prefixes. They are guessed: none."
    for name in ("multilingual-e5-small-0a1b2c3d", "E5_base", "my.e5"):
        settings, guess = encoders.read_settings(directory, shape, name)
        assert (settings.query_prefix, settings.passage_prefix) == ("query: ", "passage: ")
        assert f"{name} gives" in guess and "of the family E5" in guess
    assert encoders.read_settings(directory, shape, "fe5st")[0].query_prefix == ""
    (directory / "config_sentence_transformers.json").write_text('{"prompts": {}}')
    assert encoders.read_settings(directory, shape, "my.e5") == (Settings(64, "mean"), "")


def steps(*kinds: str) -> str:
    return json.dumps([{"idx": n, "type": f"sentence_transformers.models.{kind}"} for n, kind in enumerate(kinds)])


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("modules.json", steps("Transformer", "Pooling", "Dense", "Normalize"), "has a step Dense; only Transformer, "),
        ("modules.json", "[5]", "is not a list of steps"),
        ("modules.json", "{}}", "modules.json: cannot be read"),
        ("sentence_bert_config.json", '{"do_lower_case": true}', "wants its texts in lower case"),
        ("1_Pooling/config.json", '{"pooling_mode_mean_tokens": true, "include_prompt": false}', "without the prompt"),
    ],
)
def test_unknown_step_is_refused(directory: Path, file: str, content: str, sentence: str) -> None:
    (directory / "modules.json").write_text(steps("Transformer", "Pooling", "Normalize"))
    shape = Encoder(directory).shape
    assert encoders.read_settings(directory, shape, "x")[0] == Settings(64, "mean")
    (directory / file).parent.mkdir(exist_ok=True)
    (directory / file).write_text(content)
    with pytest.raises(ModelRefused, match=sentence):
        encoders.read_settings(directory, shape, "x")


def made(directory: Path, tmp_path: Path, precision: PrecisionChoice) -> ModelInfo:
    target = tmp_path / "model"
    target.mkdir(parents=True)
    return convert(Encoder(directory), Settings(64), target, name="x", precision=precision)


def test_inaccurate_int8_is_refused_and_auto_takes_fp32(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "MIN_COSINE", 0.999999)
    with pytest.raises(ModelRefused, match=r"too far from its source: mean cosine 0\.\d+") as caught:
        made(directory, tmp_path / "one", "int8")
    assert "--precision fp32" in caught.value.hint
    assert made(directory, tmp_path / "two", "auto").precision == "fp32"


def test_int8_that_the_runtime_cannot_run_is_refused_and_auto_takes_fp32(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unknown(Int8Layers):
        def table(self, values: Floats, ids: str) -> str:
            return self._graph.add("com.microsoft.OfALaterRuntime", super().table(values, ids))

    monkeypatch.setitem(conversion._LAYERS, "int8", Unknown)
    with pytest.raises(ModelError, match="the runtime cannot load it"):
        made(directory, tmp_path / "one", "int8")
    assert made(directory, tmp_path / "two", "auto").precision == "fp32"


@pytest.mark.parametrize(("least", "expected"), [(0.0, "int8"), (1e9, "fp32")])
def test_auto_takes_int8_only_where_it_is_faster(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float, expected: str
) -> None:
    monkeypatch.setattr(acceptance, "MIN_SPEEDUP", least)
    info = made(directory, tmp_path, "auto")
    assert info.precision == expected
    assert info.speedup and info.speedup > 0
    assert (info.cosine_mean is None) == (expected == "fp32")
    assert sorted(file.name for file in info.directory.iterdir()) == ["model.onnx", "model.toml", "tokenizer.json"]


def test_int8_can_be_asked_for_where_it_is_slower(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "MIN_SPEEDUP", 1e9)
    info = made(directory, tmp_path, "int8")
    assert info.precision == "int8" and (info.cosine_mean or 0) >= acceptance.MIN_COSINE


def test_sample_texts_are_varied() -> None:
    judged = sample_texts()
    assert len(judged) >= 250 and judged == sample_texts()
    cyrillic = [text for text in judged if any("а" <= letter <= "я" for letter in text.lower())]
    latin = [text for text in judged if any("a" <= letter <= "z" for letter in text.lower())]
    assert min(len(cyrillic), len(latin), len(set(cyrillic) & set(latin))) > 50
    assert min(map(len, judged)) < 3 and max(map(len, judged)) > 700
    assert not any("{" in text for text in judged)


@pytest.mark.parametrize("package", ["onnx", "safetensors"])
def test_a_missing_package_says_what_to_install(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match=f"the package {package}") as caught:
        made(directory, tmp_path, "fp32")
    assert caught.value.hint == "Install it: `pip install 'vkteams-daemon[models]'`."
