"""Hybrid search: words and meaning weighed by how sure each is, then the conversations of the surest hits.

Three steps. Each hit of either leg gets a probability (`relevance`). The conversations of the likeliest hits are
followed: a message beside a hit is as likely as the hit times the likelihood that they belong together. Then the answer
is filled one place at a time with what it gains most by: any relevant message is a gain, the first one `FIRST` times
as much, and that counts in full only for a message of another conversation than those already there. So a sure hit is
followed by its conversation, and an unsure one by other tries.

The constants were fitted on the training half of the benchmark's conversations (bench/relevance.py) by logistic
regression over the 100 first of either leg, 1,116 questions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import psycopg
from psycopg.rows import tuple_row
from rapidfuzz import fuzz

from vkteams_daemon.search.results import Leg, Ranked
from vkteams_daemon.search.retrieval import linking
from vkteams_daemon.search.retrieval.linking import Key, Line
from vkteams_daemon.search.scope import Scope

LEG = 100
"""How many hits of each leg are fused."""

FIRST = 12
"""What the first relevant message of an answer is worth against a further one. More gains no success on the training
half and costs nDCG (success@10, nDCG@10 with the trust below): 6 gives 0.684 and 0.330, 12 0.690 and 0.310, 24 0.690
and 0.287."""

_ABSENT = 150  # the rank of what is not among a leg's first 100
_BIAS, _SEMANTIC_RANK, _TEXT_RANK, _COSINE = -1.1, -0.39, -0.42, 3.5
# A message that holds most of what a query says is meant, whatever the vectors say: `JIRA-1234` has no meaning. The
# questions of the benchmark are too long to tell (their share is rarely above a half); the Russian set is not.
_SHARE, _SHARE_FROM = 8.0, 0.5

_FOLLOWED = 10  # hits whose conversations are looked at; 20 gain nothing more
_TRUST = 0.25  # of what is beside a hit, on the training half: 0.4 gives success@10 0.684, 0.25 0.690, 0.15 0.692
_ALIKE = 92  # per cent of letters that two texts share to be shown as one


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
    groups = linking.read(connection, likeliest, scope)
    pool = _with_conversations(likely, groups)
    lines = _facts(connection, pool, groups)
    pool = [one for one in pool if one.key in lines]
    if half_life and now:
        pool = _weighed_by_age(pool, lines, half_life, now)
    return _fill(pool, groups, lines, limit)


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


def _with_conversations(likely: Mapping[Key, Ranked], groups: Mapping[Key, Sequence[Line]]) -> list[Ranked]:
    """The hits and what stands in their conversations: relevant for itself, or for any hit that it belongs to."""
    miss = {key: 1 - ranked.score for key, ranked in likely.items()}
    beside: set[Key] = set()
    for key, lines in groups.items():
        hit = next(line for line in lines if line.key == key)
        for line in lines:
            together = linking.likelihood(hit, line) if line.key != key else 0.0
            if together:
                miss[line.key] = miss.get(line.key, 1.0) * (1 - _TRUST * likely[key].score * together)
                beside.add(line.key)
    pool = []
    place = 0
    for key in sorted(miss, key=lambda key: miss[key]):
        legs = likely[key].legs if key in likely else ()
        if key in beside:
            place += 1
            legs = (*legs, Leg("conversation", place, 1 - miss[key]))
        pool.append(Ranked(*key, 1 - miss[key], legs=legs))
    return pool


def _fill(
    ranked: Sequence[Ranked], groups: Mapping[Key, Sequence[Line]], lines: Mapping[Key, Line], limit: int
) -> list[Ranked]:
    place = {one.key: n for n, one in enumerate(ranked)}
    probability = np.array([one.score for one in ranked])
    other = np.ones(len(ranked))  # how likely it belongs to no conversation that is in the answer already
    missed = 1.0  # how likely nothing in the answer is relevant
    answer: list[Ranked] = []
    shown: list[str] = []
    for _ in range(len(ranked)):
        best = int(np.argmax(probability * (1 + FIRST * missed * other)))
        one, likely = ranked[best], float(probability[best])
        probability[best] = -1.0
        if _repeats(lines[one.key].text, shown):
            continue
        shown.append(_plain(lines[one.key].text))
        answer.append(one)
        if len(answer) == limit:
            break
        missed *= 1 - likely * float(other[best])
        for key, together in _together(one.key, groups).items():
            if key in place:
                other[place[key]] *= 1 - together
    return answer


def _together(key: Key, groups: Mapping[Key, Sequence[Line]]) -> dict[Key, float]:
    """How likely other messages belong to this one's conversation, as far as its neighbours were read."""
    found: dict[Key, float] = {}
    for lines in groups.values():
        one = next((line for line in lines if line.key == key), None)
        for line in lines if one else ():
            if one and line.key != key:
                found[line.key] = max(found.get(line.key, 0.0), linking.likelihood(one, line))
    return found


def _facts(
    connection: psycopg.Connection[Any], pool: Sequence[Ranked], groups: Mapping[Key, Sequence[Line]]
) -> dict[Key, Line]:
    """The line of each message of the pool; those that nobody's neighbourhood has are read."""
    lines = {line.key: line for group in groups.values() for line in group}
    missing = [one.key for one in pool if one.key not in lines]
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


def _weighed_by_age(
    pool: Sequence[Ranked], lines: Mapping[Key, Line], half_life: timedelta, now: datetime
) -> list[Ranked]:
    weighed = []
    newest_first = sorted(pool, key=lambda one: lines[one.key].sent_at, reverse=True)
    for place, one in enumerate(newest_first, 1):
        fresh = float(0.5 ** max(0.0, (now - lines[one.key].sent_at) / half_life))
        weighed.append(replace(one, score=one.score * fresh, legs=(*one.legs, Leg("recency", place, fresh))))
    return sorted(weighed, key=lambda one: -one.score)
