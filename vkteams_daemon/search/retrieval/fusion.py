"""Fusion: the ranking of a hybrid search, made from the hits by words, the hits by meaning and their conversations.

It works in three steps.

1. `relevance` gives each hit of either retriever, and each message that grants wishes, a probability.
2. `conversation_linking` follows the conversations of the likeliest hits. A message beside a hit is as likely as the
   hit, times the likelihood that both belong to one conversation.
3. `_select` fills the answer one place at a time with the message that gains most. Every relevant message is a gain.
   The first one gains `FIRST` times as much, and that gain counts in full only for a message of a conversation that is
   not in the answer yet. So the conversation of a sure hit follows it, and other candidates follow an unsure hit.

The constants were fitted on training halves: 226 questions of the conversations of twelve chats (bench/relevance.py),
and the Russian paraphrases and half memories (bench/russian). They are the same for every model and set of models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from rapidfuzz import fuzz

from vkteams_daemon.search.messages import MessageKey
from vkteams_daemon.search.results import Ranked, RetrieverScore
from vkteams_daemon.search.retrieval import conversation_linking
from vkteams_daemon.search.retrieval.conversation_linking import Line
from vkteams_daemon.search.retrieval.meaning import Nearest
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

PER_RETRIEVER = 100
"""How many hits of each retriever are fused."""

FIRST = 4
"""How much more the first relevant message of an answer is worth than a further one.

A larger value gains up to 0.004 of success on the training half and costs 0.01 of nDCG and more.
"""

# The weights of the evidence in the logarithm of the odds, see `relevance`.
_BIAS = -5.0
# Of the BM25 score, squared. A hit by one common word says nothing; two rare words in one message are no coincidence.
# With the score itself, hits by a common word would come before the message that was meant.
_WORDS = 0.4
_MEANING = 8.0
_WISH = 1.5
# A message that holds most of the query's words is relevant whatever the vectors say: `JIRA-1234` has no meaning. The
# benchmark's questions are too long to show this (the share is rarely above 0.4). The Russian set shows it.
_SHARE, _SHARE_FROM = 12.0, 0.4
_ALL_WORDS = 0.999  # the share of the query that a message with all its words holds

_FOLLOWED = 10  # hits whose conversations are followed; 20 gain nothing more
NEIGHBOUR_WEIGHT = 0.15
"""The weight of a message beside a hit; a larger one costs success on the training half."""
_SAME_TEXT = 92  # per cent of letters that two texts share to count as one


def fuse(
    connection: Connection,
    text: Sequence[Ranked],
    nearest: Nearest,
    granted: Mapping[MessageKey, float],
    scope: Scope,
    limit: int,
    *,
    half_life: timedelta | None = None,
    now: datetime | None = None,
) -> list[Ranked]:
    """The fused ranking of both retrievers, best first; of nearly equal texts it holds one.

    Args:
        connection: any connection to the archive.
        text: hits of `bm25.any_word`, best first.
        nearest: hits by meaning.
        granted: how many of the query's wishes a hit grants, by key; 0 where it is missing.
        scope: where to look; followed conversations stay in it too.
        limit: most messages.
        half_life: a message of this age counts half; None if age does not matter.
        now: the moment from which ages count (aware), with `half_life`.
    """
    hits = relevance(text, nearest, granted)
    if nearest.guess:
        hits = without_guesses(hits)
    likeliest = sorted(hits, key=lambda key: -hits[key].score)[:_FOLLOWED]
    neighbourhoods = conversation_linking.neighbourhoods(connection, likeliest, scope)
    candidates = _with_conversations(hits, neighbourhoods)
    lines = {line.key: line for neighbourhood in neighbourhoods.values() for line in neighbourhood}
    lines |= conversation_linking.lines(connection, [one.key for one in candidates if one.key not in lines])
    candidates = [one for one in candidates if one.key in lines]
    if half_life and now:
        candidates = _weighed_by_age(candidates, lines, half_life, now)
    return _select(candidates, neighbourhoods, lines, limit)


def relevance(
    text: Sequence[Ranked], nearest: Nearest, granted: Mapping[MessageKey, float]
) -> dict[MessageKey, Ranked]:
    """Each hit of either retriever with the probability that it is relevant, and the retrievers' scores."""
    scores: dict[MessageKey, dict[str, RetrieverScore]] = {}
    for ranked in (*text, *nearest.ranked):
        scores.setdefault(ranked.key, {}).update({score.name: score for score in ranked.by_retriever})
    for rank, key in enumerate(sorted(granted, key=lambda key: (-granted[key], key)), 1):
        scores.setdefault(key, {})["wish"] = RetrieverScore("wish", rank, granted[key])
    hits = {}
    for key, by_name in scores.items():
        logit = _BIAS + _MEANING * max(0.0, nearest.stand_out.get(key, 0.0)) + _WISH * granted.get(key, 0)
        if words := by_name.get("text"):
            logit += _WORDS * words.score**2 + _SHARE * max(0.0, (words.share or 0.0) - _SHARE_FROM)
        hits[key] = Ranked(*key, 1 / (1 + math.exp(-logit)), by_retriever=tuple(by_name.values()))
    return hits


def without_guesses(hits: dict[MessageKey, Ranked]) -> dict[MessageKey, Ranked]:
    """The hits without those by their meaning alone, if one holds every word of the query; otherwise all of them.

    For a query that no model understands: beside a sure hit, its neighbours by meaning are noise.
    """
    legs = {key: {score.name: score for score in hit.by_retriever} for key, hit in hits.items()}
    if not any("text" in by_name and (by_name["text"].share or 0.0) >= _ALL_WORDS for by_name in legs.values()):
        return hits
    return {key: hit for key, hit in hits.items() if legs[key].keys() & {"text", "wish"}}


def _with_conversations(
    hits: Mapping[MessageKey, Ranked], neighbourhoods: Mapping[MessageKey, Sequence[Line]]
) -> list[Ranked]:
    """The hits and the messages of their conversations, each relevant for itself or for a hit that it belongs to."""
    miss = {key: 1 - ranked.score for key, ranked in hits.items()}
    beside: set[MessageKey] = set()
    for key, lines in neighbourhoods.items():
        hit = next(line for line in lines if line.key == key)
        for line in lines:
            together = conversation_linking.likelihood(hit, line) if line.key != key else 0.0
            if together:
                miss[line.key] = miss.get(line.key, 1.0) * (1 - NEIGHBOUR_WEIGHT * hits[key].score * together)
                beside.add(line.key)
    candidates = []
    rank = 0
    for key in sorted(miss, key=lambda key: miss[key]):
        scores = hits[key].by_retriever if key in hits else ()
        if key in beside:
            rank += 1
            scores = (*scores, RetrieverScore("conversation", rank, 1 - miss[key]))
        candidates.append(Ranked(*key, 1 - miss[key], by_retriever=scores))
    return candidates


def _select(
    candidates: Sequence[Ranked],
    neighbourhoods: Mapping[MessageKey, Sequence[Line]],
    lines: Mapping[MessageKey, Line],
    limit: int,
) -> list[Ranked]:
    index = {one.key: n for n, one in enumerate(candidates)}
    by_key = [{line.key: line for line in neighbourhood} for neighbourhood in neighbourhoods.values()]
    # Python's lists, because numpy takes longer to import than all of this takes.
    probability = [one.score for one in candidates]
    # For each candidate, how likely it belongs to no conversation that is in the answer already.
    other = [1.0] * len(candidates)
    miss = 1.0  # how likely nothing in the answer is relevant
    answer: list[Ranked] = []
    texts: list[str] = []
    for _ in range(len(candidates)):
        gains = [p * (1 + FIRST * miss * o) for p, o in zip(probability, other, strict=True)]
        best = gains.index(max(gains))
        one, likely = candidates[best], probability[best]
        probability[best] = -1.0
        if _repeats(lines[one.key].text, texts):
            continue
        texts.append(_plain(lines[one.key].text))
        answer.append(one)
        if len(answer) == limit:
            break
        miss *= 1 - likely * other[best]
        for key, together in _conversation(one.key, by_key).items():
            if key in index:
                other[index[key]] *= 1 - together
    return answer


def _conversation(key: MessageKey, neighbourhoods: Sequence[Mapping[MessageKey, Line]]) -> dict[MessageKey, float]:
    """How likely each other message belongs to this one's conversation, as far as its neighbours were read."""
    likelihoods: dict[MessageKey, float] = {}
    for lines in neighbourhoods:
        if (one := lines.get(key)) is None:
            continue
        for line in lines.values():
            if line is not one:
                likelihoods[line.key] = max(likelihoods.get(line.key, 0.0), conversation_linking.likelihood(one, line))
    return likelihoods


def _repeats(text: str, texts: Sequence[str]) -> bool:
    """Whether one of these texts says nearly the same."""
    plain = _plain(text)
    return bool(plain) and any(
        plain == other or (len(plain) > 20 and fuzz.ratio(plain, other, score_cutoff=_SAME_TEXT) > 0) for other in texts
    )


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip() or text


def _weighed_by_age(
    candidates: Sequence[Ranked], lines: Mapping[MessageKey, Line], half_life: timedelta, now: datetime
) -> list[Ranked]:
    weighed = []
    newest_first = sorted(candidates, key=lambda one: lines[one.key].sent_at, reverse=True)
    for rank, one in enumerate(newest_first, 1):
        factor = float(0.5 ** max(0.0, (now - lines[one.key].sent_at) / half_life))
        scores = (*one.by_retriever, RetrieverScore("recency", rank, factor))
        weighed.append(replace(one, score=one.score * factor, by_retriever=scores))
    return sorted(weighed, key=lambda one: -one.score)
