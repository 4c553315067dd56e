"""How well people find Russian messages again: by words, by another wording, by half a memory.

    python -m bench.russian [--archive DIR] [--models NAME …] [--ways NAME …]

For each model alone and for all of them together, it asks every query by `text`, `semantic` and `hybrid` search. It
prints success@5, MRR@10 and nDCG@10 of each kind. The queries by words are asked of the tests' 834 messages, because
their relevant messages are counted among these. Paraphrases and half memories are asked of 5,000 messages.
`bench.russian.texts` says where the texts come from.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import relevance
from bench.archive import temporary_directory
from bench.russian import texts
from bench.russian.texts import Message, Query
from tests.harness import russian
from vkteams_daemon.botapi import events
from vkteams_daemon.config import Config
from vkteams_daemon.embedding import catalogue
from vkteams_daemon.options import Daemon, Embedding
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.results import Mode
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.system.user import choose_owner

_FIRST = 5
_MODES: tuple[Mode, ...] = ("text", "semantic", "hybrid")
_MEDIA = ("image", "video", "voice")


def event(number: int, message: Message) -> dict[str, object]:
    """The message as the Bot API delivers it."""
    people = russian.people()
    first, last = people.users.get(message.user, ("", ""))
    chat_id = message.chat if "@" in message.chat else f"{message.chat}@chat.agent"
    payload: dict[str, object] = {
        "msgId": message.id,
        "chat": {"chatId": chat_id, "type": "group", "title": people.chats.get(message.chat, message.chat)},
        "from": {"userId": message.user if "@" in message.user else f"{message.user}@corp.example",
                 "firstName": first or message.user, "lastName": last},
        "timestamp": int(message.sent_at.timestamp()),
    }  # fmt: skip
    if not message.file:
        return {"eventId": number, "type": "newMessage", "payload": {**payload, "text": message.text}}
    part: dict[str, object] = {"fileId": f"file-{message.id}", "caption": message.text}
    if message.file in ("image", "video"):
        part["type"] = message.file
    elif message.file not in _MEDIA and number % 2:  # the API does not always give the name
        part["name"] = message.file
    kind = "voice" if message.file == "voice" else "file"
    return {"eventId": number, "type": "newMessage", "payload": {**payload, "parts": [{"type": kind, "payload": part}]}}


def fill(config: Config, messages: Sequence[Message]) -> None:
    """Write the messages, and embed them with each model of the configuration."""
    with Database(config) as database:
        writer = Writer(database.connect, "bench")
        writer.acquire()
        if writer.cursor is not None and not writer.cursor.last_event_id:
            body = {"ok": True, "events": [event(n, message) for n, message in enumerate(messages, 1)]}
            writer.store(events.read(json.dumps(body).encode(), datetime.now(UTC)))
        writer.close()
        relevance.embed(config, database)


def configuration(directory: Path, name: str, models: Sequence[str], models_dir: Path) -> Config:
    """The archive of this name below the directory."""
    home = directory / name
    if os.geteuid() == 0:
        choose_owner("nobody").make_directory(home / "postgresql", 0o750)
    return Config(
        daemon=Daemon(state_dir=str(home), runtime_dir=str(home)),
        embedding=Embedding(models=tuple(models), models_dir=str(models_dir)),
    )


def figures(archive: Archive, mode: Mode, queries: Sequence[Query]) -> tuple[float, float, float]:
    """success@5, MRR@10 and nDCG@10."""
    sums = [0.0, 0.0, 0.0]
    for query in queries:
        ids = [hit.msg_id for hit in archive.search(query.text, mode=mode, limit=relevance.TOP).hits]
        ranks = [rank for rank, one in enumerate(ids, 1) if one in query.relevant]
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(query.relevant), relevance.TOP) + 1))
        sums[0] += bool(ranks) and ranks[0] <= _FIRST
        sums[1] += 1 / ranks[0] if ranks else 0.0
        sums[2] += sum(1 / math.log2(rank + 1) for rank in ranks) / ideal
    return sums[0] / len(queries), sums[1] / len(queries), sums[2] / len(queries)


def rows(archive: Archive, queries: Sequence[Query], modes: Sequence[Mode]) -> Iterator[str]:
    """A line for each kind and half, with the figures of each way to ask."""
    for kind in dict.fromkeys(query.kind for query in queries):
        for half in ("train", "held out"):
            some = [query for query in queries if query.kind == kind and query.half == half]
            cells = "   ".join("{:.2f} {:.2f} {:.2f}".format(*figures(archive, mode, some)) for mode in modes)
            yield f"{kind:12}{half:9}{len(some):4}   {cells}"


def main() -> None:
    """Build the archives, ask the queries, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, metavar="DIR", help="keep the archives and models there")
    parser.add_argument("--models", nargs="+", default=list(catalogue.DEFAULT_MODELS), metavar="NAME")
    parser.add_argument("--ways", nargs="+", choices=_MODES, default=_MODES)
    options = parser.parse_args()
    now = datetime.now(UTC)
    with contextlib.nullcontext(options.archive) if options.archive else temporary_directory() as directory:
        models_dir = directory / "models"
        relevance.install(models_dir, options.models)
        archives = []
        for name, (messages, queries) in (("set", texts.small_set(now)), ("haystack", texts.haystack(now))):
            config = configuration(directory, name, options.models, models_dir)
            fill(config, messages)
            archives.append((config, queries))
        for names in relevance.model_sets(options.models):
            ways = "".join(f"{mode:17}" for mode in options.ways)
            print(f"\n{' + '.join(names)}: success@5, MRR@10, nDCG@10\n{'':28}{ways}")
            for config, queries in archives:
                with relevance.asked_by(config, names) as archive:
                    for line in rows(archive, queries, options.ways):
                        print(line, flush=True)


if __name__ == "__main__":
    main()
