"""Hybrid search: words and meaning weighed by how sure each is, then the conversations of the surest hits.

Three steps. Each hit of either leg gets a probability (`relevance`). The conversations of the likeliest hits are
followed: a message beside a hit is as likely as the hit times the likelihood that they belong together. Then the answer
is filled one place at a time with what it gains most by: any relevant message is a gain, the first one `FIRST` times
as much, and that counts in full only for a message of another conversation than those already there. So a sure hit is
followed by its conversation, and an unsure one by other tries.

The constants were fitted on the training half of the benchmark's conversations (bench/relevance.py) by logistic
regression over the 100 first of either leg, 3,393 questions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import tuple_row
from rapidfuzz import fuzz

from vkteams_daemon.search import follow
from vkteams_daemon.search.follow import Key, Line
from vkteams_daemon.search.hit import Leg, Ranked
from vkteams_daemon.search.scope import Scope

LEG = 100
"""How many hits of each leg are fused."""

FIRST = 16
"""What the first relevant message of an answer is worth against a further one. On the training half, success@10 and
nDCG@10: 0 gives 0.57 and 0.39, 8 0.63 and 0.37, 16 0.69 and 0.32, 64 0.69 and 0.27."""

_ABSENT = 150  # the rank of what is not among a leg's first 100
_BIAS, _SEMANTIC_RANK, _TEXT_RANK, _COSINE = -1.1, -0.39, -0.42, 3.5
# A message that holds most of what a query says is meant, whatever the vectors say: `JIRA-1234` has no meaning. The
# questions of the benchmark are too long to tell (their share is rarely above a half); the Russian set is not.
_SHARE, _SHARE_FROM = 8.0, 0.5

_FOLLOWED = 10  # hits whose conversations are looked at; 20 gain nothing more
_TRUST = 0.4  # of what is beside a hit: 1 gives success@10 0.60, 0.4 0.69 at the same nDCG@10
_ALIKE = 92  # per cent of letters that two texts share to be shown as one


@dataclass(slots=True)
class _Candidate:
    ranked: Ranked
    probability: float
    other: float = 1.0  # how likely it belongs to no conversation that is in the answer already


def fuse(
    connection: psycopg.Connection[Any],
    text: Sequence[Ranked],
    semantic: Sequence[Ranked],
    scope: Scope,
    limit: int,
    *,
    half_life: timedelta | None = None,
    now: datetime | None = None,
) -> list[Ranked]:
    """The answer of both legs, best first; texts that are nearly the same are given once.

    Args:
        connection: any connection to the archive.
        text: hits of `lexical.any_word`, best first.
        semantic: hits of `search_semantic`, best first.
        scope: where to look; what is followed lies in it, too.
        limit: most messages.
        half_life: a message of this age counts half; None where age does not matter.
        now: the moment that ages are counted from, with `half_life`.
    """
    likely = relevance(text, semantic)
    likeliest = sorted(likely, key=lambda key: -likely[key].score)[:_FOLLOWED]
    groups = follow.read(connection, likeliest, scope)
    pool = _with_conversations(likely, groups)
    lines = _facts(connection, pool, groups)
    candidates = {
        key: _Candidate(ranked, ranked.score * _fresh(lines[key].sent_at, half_life, now))
        for key, ranked in pool.items()
        if key in lines
    }
    return _fill(candidates, groups, lines, limit)


def relevance(text: Sequence[Ranked], semantic: Sequence[Ranked]) -> dict[Key, Ranked]:
    """Each hit of either leg with the probability that it is relevant, and what the legs say of it."""
    legs: dict[Key, dict[str, Leg]] = {}
    for ranked in (*text, *semantic):
        legs.setdefault(ranked.key, {}).update({leg.name: leg for leg in ranked.legs})
    # How far a cosine stands out from the last one of the leg: models differ in where their cosines lie.
    floor = semantic[-1].score if semantic else 1.0
    found = {}
    for key, said in legs.items():
        logit = _BIAS
        if text:
            logit += _TEXT_RANK * math.log1p(said["text"].rank - 1 if "text" in said else _ABSENT)
            share = (said["text"].share or 0.0) if "text" in said else 0.0
            logit += _SHARE * max(0.0, share - _SHARE_FROM)
        if semantic:
            logit += _SEMANTIC_RANK * math.log1p(said["semantic"].rank - 1 if "semantic" in said else _ABSENT)
            if "semantic" in said and floor < 1:
                logit += _COSINE * (said["semantic"].score - floor) / (1 - floor)
        found[key] = Ranked(*key, 1 / (1 + math.exp(-logit)), legs=tuple(said.values()))
    return found


def _with_conversations(likely: Mapping[Key, Ranked], groups: Mapping[Key, Sequence[Line]]) -> dict[Key, Ranked]:
    """The hits and what stands in their conversations: relevant for itself, or for any hit that it belongs to."""
    miss = {key: 1 - ranked.score for key, ranked in likely.items()}
    beside: set[Key] = set()
    for key, lines in groups.items():
        hit = next(line for line in lines if line.key == key)
        for line in lines:
            together = follow.likelihood(hit, line) if line.key != key else 0.0
            if together:
                miss[line.key] = miss.get(line.key, 1.0) * (1 - _TRUST * likely[key].score * together)
                beside.add(line.key)
    pool = {}
    for key, missed in miss.items():
        legs = likely[key].legs if key in likely else ()
        pool[key] = Ranked(*key, 1 - missed, legs=legs)
    order = {key: rank for rank, key in enumerate(sorted(beside, key=lambda key: miss[key]), 1)}
    for key, rank in order.items():
        pool[key] = replace(pool[key], legs=(*pool[key].legs, Leg("conversation", rank, pool[key].score)))
    return pool


def _fill(
    candidates: dict[Key, _Candidate], groups: Mapping[Key, Sequence[Line]], lines: Mapping[Key, Line], limit: int
) -> list[Ranked]:
    answer: list[Ranked] = []
    shown: list[str] = []
    missed = 1.0  # how likely nothing in the answer is relevant
    while candidates and len(answer) < limit:
        key = max(candidates, key=lambda k: _gain(candidates[k], missed))
        best = candidates.pop(key)
        if _repeats(lines[key].text, shown):
            continue
        shown.append(_plain(lines[key].text))
        answer.append(replace(best.ranked, score=best.probability))
        missed *= 1 - best.probability * best.other
        for other, together in _together(key, groups).items():
            if other in candidates:
                candidates[other].other *= 1 - together
    return answer


def _gain(candidate: _Candidate, missed: float) -> float:
    return candidate.probability * (1 + FIRST * missed * candidate.other)


def _together(key: Key, groups: Mapping[Key, Sequence[Line]]) -> dict[Key, float]:
    """How likely other messages belong to this one's conversation, as far as its neighbours were read."""
    found: dict[Key, float] = {}
    for lines in groups.values():
        one = next((line for line in lines if line.key == key), None)
        for line in lines if one else ():
            if one and line.key != key:
                found[line.key] = max(found.get(line.key, 0.0), follow.likelihood(one, line))
    return found


def _facts(
    connection: psycopg.Connection[Any], pool: Mapping[Key, Ranked], groups: Mapping[Key, Sequence[Line]]
) -> dict[Key, Line]:
    """The line of each message of the pool; those that nobody's neighbourhood has are read."""
    lines = {line.key: line for group in groups.values() for line in group}
    missing = [key for key in pool if key not in lines]
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT m.chat_id, m.msg_id, m.user_id, m.sent_at, m.reply_to_msg_id, left(m.text, 500)"
            " FROM unnest(%s::text[], %s::text[]) AS k (chat_id, msg_id)"
            " JOIN messages m ON m.chat_id = k.chat_id AND m.msg_id = k.msg_id WHERE m.deleted_at IS NULL",
            ([key[0] for key in missing], [key[1] for key in missing]),
        )
        for chat_id, msg_id, user_id, sent_at, reply_to, text in cursor:
            lines[chat_id, msg_id] = Line((chat_id, msg_id), 0, user_id, sent_at, reply_to, text or "", frozenset())
    return lines


def _repeats(text: str, shown: Sequence[str]) -> bool:
    """Whether one of the texts shown already says nearly the same."""
    plain = _plain(text)
    return any(
        plain == other or (len(plain) > 20 and fuzz.ratio(plain, other, score_cutoff=_ALIKE) > 0) for other in shown
    )


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip() or text


def _fresh(sent_at: datetime, half_life: timedelta | None, now: datetime | None) -> float:
    if half_life is None or now is None:
        return 1.0
    age = max(0.0, (now - sent_at).total_seconds())
    return float(0.5 ** (age / half_life.total_seconds()))
