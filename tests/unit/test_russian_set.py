"""The Russian relevance set has the form that tests/relevance/README.md describes."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise, takewhile

from tests.harness.russian import KINDS, Query, messages, people, queries

MESSAGES = messages()
QUERIES = queries()
PEOPLE = people()
TEXTS = {message.id: message.text for message in MESSAGES}

_KEYS = ("qwertyuiop[]asdfghjkl;'zxcvbnm,.`", "йцукенгшщзхъфывапролджэячсмитьбюё")
_OTHER_KEY = dict(zip(_KEYS[0] + _KEYS[1], _KEYS[1] + _KEYS[0], strict=True))


def _of(kind: str) -> list[Query]:
    return [query for query in QUERIES if query.kind == kind]


def _fold(text: str) -> str:
    return text.replace("ё", "е")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _layout(word: str) -> str:
    return "".join(_OTHER_KEY.get(letter, letter) for letter in word.lower())


def _typos(one: str, other: str) -> int:
    """Letters to add, drop, replace or swap with their neighbour (optimal string alignment)."""
    before, row = [0] * (len(other) + 1), list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        earlier, before, row = before, row, [i]
        for j, target in enumerate(other, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != target)))
            if i > 1 and j > 1 and one[i - 2 : i] == other[j - 2 : j][::-1]:
                row[j] = min(row[j], earlier[j - 2] + 1)
    return row[-1]


def _differ_in_yo(one: str, other: str) -> bool:
    """Whether two words begin alike for three letters or more, but for ё against е."""
    pairs = zip(_fold(one), _fold(other), strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return same >= 3 and one[:same] != other[:same]


def test_the_set_is_large_enough() -> None:
    assert len(MESSAGES) >= 640
    assert len(QUERIES) >= 180
    assert len({message.chat for message in MESSAGES}) >= 8
    assert MESSAGES[-1].minute - MESSAGES[0].minute >= 21 * 24 * 60


def test_every_kind_has_twenty_queries_or_more() -> None:
    counts = Counter(query.kind for query in QUERIES)
    assert set(counts) == set(KINDS)
    assert min(counts.values()) >= 20, counts


def test_ids_are_consecutive() -> None:
    assert [message.id for message in MESSAGES] == [f"m{number:04}" for number in range(1, len(MESSAGES) + 1)]
    assert [query.id for query in QUERIES] == [f"q{number:03}" for number in range(1, len(QUERIES) + 1)]


def test_messages_are_in_the_order_of_time() -> None:
    assert all(earlier.minute <= later.minute for earlier, later in pairwise(MESSAGES))


def test_people_file_names_exactly_the_speakers_and_chats() -> None:
    assert {message.user for message in MESSAGES} == set(PEOPLE.users)
    assert {message.chat for message in MESSAGES} == set(PEOPLE.chats)
    assert len(set(PEOPLE.users.values())) == len(PEOPLE.users)


def test_replies_answer_an_earlier_message_of_the_same_chat() -> None:
    by_id = {message.id: message for message in MESSAGES}
    replies = [message for message in MESSAGES if message.reply_to]
    assert replies
    for message in replies:
        parent = by_id[message.reply_to or ""]
        assert (parent.chat, parent.id < message.id) == (message.chat, True), message


def test_texts_are_stripped_and_only_short_ones_repeat() -> None:
    assert all(text == text.strip() and text for text in TEXTS.values())
    repeated = {text for text, count in Counter(TEXTS.values()).items() if count > 1}
    assert all(len(text.split()) <= 2 for text in repeated), repeated


def test_queries_differ() -> None:
    assert not [query for query, count in Counter(query.query for query in QUERIES).items() if count > 1]


def test_relevant_messages_exist_and_are_few() -> None:
    for query in QUERIES:
        assert 1 <= len(query.relevant) <= 5, query
        assert list(query.relevant) == sorted(set(query.relevant)), query
        assert set(query.relevant) <= set(TEXTS), query


def test_layout_queries_are_what_was_meant_in_the_other_layout() -> None:
    for query in _of("layout"):
        typed, meant = query.query.lower().split(), query.meant.lower().split()
        assert typed != meant, query
        assert all(word in (target, _layout(target)) for word, target in zip(typed, meant, strict=True)), query


def test_translit_queries_are_written_in_latin_letters() -> None:
    assert [query for query in _of("translit") if not query.query.isascii() or query.meant.isascii()] == []


def test_typo_queries_have_one_word_with_one_or_two_typos() -> None:
    for query in _of("typo"):
        pairs = zip(query.query.split(), query.meant.split(), strict=True)
        wrong = [(typed, meant) for typed, meant in pairs if typed != meant]
        assert len(wrong) == 1, query
        assert len(wrong[0][1]) >= 5, query
        assert 1 <= _typos(*wrong[0]) <= 2, query


def test_yo_queries_differ_from_their_messages_in_yo() -> None:
    for query in _of("yo"):
        assert query.query == query.meant
        words = [word for message in query.relevant for word in _words(TEXTS[message])]
        assert any(_differ_in_yo(word, other) for word in _words(query.query) for other in words), query


def test_identifier_queries_hold_an_identifier() -> None:
    assert [query for query in _of("identifier") if not re.search(r"[\d_./@-]", query.query)] == []


def test_mixed_queries_mix_letters_or_have_a_typo_among_good_words() -> None:
    for query in _of("mixed"):
        pairs = list(zip(query.query.split(), query.meant.split(), strict=True))
        typo = 0 < sum(typed != meant for typed, meant in pairs) < len(pairs)
        assert typo or all(re.search(letters, query.query.lower()) for letters in ("[a-z]", "[а-яё]")), query
