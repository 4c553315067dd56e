"""The Russian relevance set, as tests/relevance/README.md describes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).parents[1] / "relevance" / "russian"
KINDS = ("inflected", "yo", "identifier", "layout", "translit", "typo", "name", "mixed", "paraphrase")


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `minute` counts from an arbitrary start."""

    chat: str
    id: str
    user: str
    minute: int
    text: str
    reply_to: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """One query; `meant` is what its author wanted to type, which is the query itself unless it is misspelt."""

    id: str
    kind: str
    query: str
    meant: str
    relevant: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class People:
    """Titles by chat, and (first, last) names by user."""

    chats: dict[str, str]
    users: dict[str, tuple[str, str]]


def messages() -> list[Message]:
    """Every message, in the order of time."""
    return [Message(**json.loads(line)) for line in _lines("messages.jsonl")]


def queries() -> list[Query]:
    """Every query, in the order of ids."""
    records = [json.loads(line) for line in _lines("queries.jsonl")]
    return [Query(**{"meant": record["query"], **record, "relevant": tuple(record["relevant"])}) for record in records]


def people() -> People:
    """The titles of the chats and the names of the speakers."""
    record = json.loads((DIRECTORY / "people.json").read_text(encoding="utf-8"))
    return People(record["chats"], {user: (name["first"], name["last"]) for user, name in record["users"].items()})


def _lines(file: str) -> list[str]:
    return (DIRECTORY / file).read_text(encoding="utf-8").splitlines()
