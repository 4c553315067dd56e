"""A small real encoder with fixed random weights, installed like every other model.

Its vectors mean little, but texts with words in common are closer than texts without. For that its word vectors are
large, its layers change them little, and pooling is the mean.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from vkteams_daemon.embedding.install import installer
from vkteams_daemon.embedding.install.convert import PrecisionChoice
from vkteams_daemon.embedding.install.samples import sample_texts
from vkteams_daemon.embedding.model_info import ModelInfo

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NAME = "tiny"


def write_tokenizer(file: Path, *, words: int = 600) -> int:
    """Write a WordPiece tokenizer of the letters and commonest words of the sample texts; returns its number of tokens.

    Like the one published with all-MiniLM-L6-v2 it cuts at a fixed length and pads everything to it.
    """
    texts = [text.lower() for text in sample_texts()]
    counts = Counter(word for text in texts for word in re.findall(r"\w+", text))
    letters = sorted({letter for text in texts for letter in text if not letter.isspace()} | set("ё/.-_:@#"))
    common = sorted(counts, key=lambda word: (-counts[word], word))[:words]
    tokens = dict.fromkeys([*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *common])
    tokenizer = Tokenizer(models.WordPiece({token: n for n, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(file))
    return len(tokens)


def write_encoder(
    directory: Path,
    *,
    seed: int = 1,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 4,
    inner: int = 64,
    positions: int = 128,
    window: int = 64,
    spread: float = 0.1,
    tensor_prefix: str = "",
    config: dict[str, object] | None = None,
) -> Path:
    """An encoder as it is published: config.json, model.safetensors, tokenizer.json and its window.

    Args:
        spread: standard deviation of the layers' weights.
        tensor_prefix: stands before the tensors' names.
        config: replaces entries of config.json.
    """
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(directory / "tokenizer.json")
    random = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = spread) -> np.ndarray:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": normal(vocabulary, hidden, scale=1.0),
        "embeddings.position_embeddings.weight": normal(positions, hidden),
        "embeddings.token_type_embeddings.weight": normal(2, hidden),
    }
    norms = ["embeddings.LayerNorm"]
    for number in range(layers):
        layer = f"encoder.layer.{number}."
        for name, outputs, inputs in (
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ):
            tensors[f"{layer}{name}.weight"] = normal(outputs, inputs)
            tensors[f"{layer}{name}.bias"] = normal(outputs)
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
    for name in norms:
        tensors[f"{name}.weight"] = 1 + normal(hidden)
        tensors[f"{name}.bias"] = normal(hidden)
    save_file({tensor_prefix + name: tensor for name, tensor in tensors.items()}, directory / "model.safetensors")
    published = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": positions,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    }
    (directory / "config.json").write_text(json.dumps(published | (config or {})), encoding="utf-8")
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": window}), encoding="utf-8")
    return directory


def install_tiny(models_dir: Path, work: Path, *, precision: PrecisionChoice = "fp32", seed: int = 1) -> ModelInfo:
    """Install the small encoder as `tiny`; its source is written into `work`, an empty directory."""
    return installer.install(str(write_encoder(work / NAME, seed=seed)), models_dir, precision=precision)


def names_in(models_dir: Path) -> list[str]:
    """The names in the models directory, without the lock."""
    return sorted(path.name for path in models_dir.iterdir() if path.name != ".lock") if models_dir.exists() else []


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with `tiny` installed and chosen; for reading only."""
    directory = tmp_path_factory.mktemp("models")
    install_tiny(directory, tmp_path_factory.mktemp("encoder"))
    return directory


@pytest.fixture(scope="session")
def tiny_model_dir(models_dir: Path) -> Path:
    """The directory of the small model; for reading only."""
    return models_dir / NAME


@pytest.fixture(scope="session")
def tiny_int8_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the same model in int8; for reading only."""
    models = tmp_path_factory.mktemp("models-int8")
    return install_tiny(models, tmp_path_factory.mktemp("encoder"), precision="int8").directory


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder to install from."""
    return write_encoder(tmp_path_factory.mktemp("source") / NAME)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where models are installed."""
    return tmp_path / "models"
