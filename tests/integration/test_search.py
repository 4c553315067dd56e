"""Searching an archive through the library: what is found, what is never found, and what the answer says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.harness.mcp import embedded
from tests.harness.talk import ANNA, DEV, OPS, PETR, VERA, Talk, moment
from vkteams_daemon.access import Access
from vkteams_daemon.config import Config
from vkteams_daemon.embedding import catalogue
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.errors import ModelAbsent, NotFound, UsageError
from vkteams_daemon.options import Database, Embedding
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.results import MODES, Mode, SearchResult
from vkteams_daemon.search.retrieval import bm25, fulltext, newest_matches, semantic
from vkteams_daemon.store import erasure_rules
from vkteams_daemon.store.admin import word_counts

BY_WORDS: tuple[Mode, ...] = ("text", "hybrid")


@pytest.fixture
def archive(talk: Talk) -> Iterator[Archive]:
    """The archive of `talk`, without a model."""
    with Archive(talk.url) as archive:
        yield archive


@pytest.fixture
def with_model(talk: Talk, models_dir: Path) -> Iterator[Archive]:
    """The same with the small model; `embedded` gives the messages their vectors."""
    config = Config(database=Database(url=talk.url), embedding=Embedding(models_dir=str(models_dir)))
    with Archive(config) as archive:
        yield archive


def ids(archive: Archive, query: str, mode: Mode, **more: object) -> list[str]:
    return [hit.msg_id for hit in archive.search(query, mode=mode, **more).hits]  # type: ignore[arg-type]


# Hits


def test_hit_has_author_chat_time_and_snippet(archive: Archive, talk: Talk) -> None:
    talk.say("1", "кто роняет сервер?", who=PETR)
    talk.say("2", "сервер упал сам", who=ANNA, answers="1")
    talk.edit("2", "сервер упал сам, честно", at=2)
    hit = archive.search("упал").hits[0]
    assert (hit.chat_id, hit.chat_title, hit.msg_id) == (OPS, "Эксплуатация", "2")
    assert (hit.user_id, hit.author, hit.sent_at) == (ANNA, "Анна Иванова", moment(0))
    assert (hit.text, hit.snippet) == ("сервер упал сам, честно", "сервер **упал** сам, честно")
    assert (hit.reply_to_msg_id, hit.edited) == ("1", True)


def test_identifier_found_by_its_parts_is_marked_as_a_whole(archive: Archive, talk: Talk) -> None:
    talk.say("1", "опять ORA-00942, пароль ****, см. https://wiki.corp.example/a?b=1")
    snippet = archive.search("ORA-00942 https://wiki.corp.example/a?b=1", mode="text").hits[0].snippet
    assert snippet == "опять **ORA-00942**, пароль ****, см. **https://wiki.corp.example/a?b=1**"


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("/start", "start"), ("см. ~/записки", "записки"), ("стало холодно, -15", "15"), ("тип List<Строка>", "строка"),
        ("вход: ftp://", "ftp"), ("host-01.corp упал", "host"), ("план...срок", "срок"), ("итог &laquo;", "laquo"),
    ],
)  # fmt: skip
def test_parts_of_a_word_with_signs_are_found(archive: Archive, talk: Talk, text: str, query: str) -> None:
    talk.say("1", text)
    assert ids(archive, query, "text") == ["1"]


@pytest.mark.parametrize("mode", BY_WORDS)
def test_hits_by_a_common_word_are_the_same_if_they_are_looked_for_in_the_newest_time_first(
    archive: Archive, talk: Talk, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    monkeypatch.setattr(fulltext, "CANDIDATES", 20)
    monkeypatch.setattr(bm25, "CANDIDATES", 20)
    texts = [f"сервер {n}" if n % 2 else f"принтер {n}" if n < 600 else f"провод {n}" for n in range(1200)]
    talk.many(texts)  # a word of all times, one of the first half
    with talk.connection() as connection:
        assert word_counts.count_words(connection)
        connection.execute("ANALYZE messages")
    limits: list[bool] = []
    for module, name in ((fulltext, "_matching"), (bm25, "_score")):
        plain = getattr(module, name)

        def watched(*arguments: Any, plain: Callable[..., object] = plain) -> object:
            limits.append(arguments[-1].since is not None)
            return plain(*arguments)

        monkeypatch.setattr(module, name, watched)
    for word, looks in (("сервер", [True]), ("принтер", [True, False])):
        monkeypatch.setattr(newest_matches, "_MESSAGE", 0)
        at_once = ids(archive, word, mode)
        assert limits == [False]
        limits.clear()
        monkeypatch.setattr(newest_matches, "_MESSAGE", 1000)
        assert ids(archive, word, mode) == at_once
        assert limits == looks
        limits.clear()


@pytest.mark.parametrize("mode", BY_WORDS)
def test_deleted_messages_and_former_texts_are_not_found(archive: Archive, talk: Talk, mode: Mode) -> None:
    talk.say("1", "пароль от сервера сезам")
    talk.say("2", "пароль от сервера потом")
    talk.say("3", "наш пароль осина", at=600)
    talk.delete("1")
    talk.edit("2", "ничего не было", at=2)
    assert ids(archive, "пароль", mode) == ["3"]


def test_deleted_messages_are_not_in_the_context_of_a_hit(archive: Archive, talk: Talk) -> None:
    talk.say("1", "почему упал сервер")
    talk.say("2", "пароль сезам", answers="1", at=1)
    talk.delete("2")
    answer = archive.search("упал сервер", context=3)
    assert [hit.msg_id for hit in answer.hits] == ["1"]
    assert answer.hits[0].context == ()


# Scope


@pytest.mark.parametrize("mode", MODES)
def test_filters_narrow_every_mode(with_model: Archive, talk: Talk, models_dir: Path, mode: Mode) -> None:
    talk.say("1", "сервер упал", who=ANNA, at=0)
    talk.say("2", "сервер снова упал", who=PETR, at=10)
    talk.say("3", "и этот сервер упал", who=PETR, at=20, chat=DEV)
    embedded(talk.url, models_dir / "tiny")
    assert sorted(ids(with_model, "сервер упал", mode)) == ["1", "2", "3"]
    assert ids(with_model, "сервер упал", mode, chat_ids=[DEV]) == ["3"]
    assert ids(with_model, "сервер упал", mode, chat_ids=[]) == []
    assert sorted(ids(with_model, "сервер упал", mode, user_id=PETR)) == ["2", "3"]
    assert sorted(ids(with_model, "сервер упал", mode, since=moment(10))) == ["2", "3"]
    assert ids(with_model, "сервер упал", mode, until=moment(10)) == ["1"]
    assert len(ids(with_model, "сервер упал", mode, limit=2)) == 2


def test_hits_in_a_chat_are_full_if_the_nearest_vectors_belong_to_messages_that_nobody_may_see(
    with_model: Archive, talk: Talk, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic, "OVERFETCH", 0)
    talk.many([f"сервер упал {n}" for n in range(12)])
    embedded(talk.url, models_dir / "tiny")
    nearest = ids(with_model, "сервер упал", "semantic", chat_ids=[OPS], limit=12)
    talk.execute("UPDATE messages SET deleted_at = now() WHERE msg_id = ANY(%s)", nearest[:9])  # and not their vectors
    assert ids(with_model, "сервер упал", "semantic", chat_ids=[OPS], limit=2) == nearest[9:11]


def test_user_who_neither_spoke_nor_was_named_is_unknown(archive: Archive, talk: Talk) -> None:
    talk.say("1", "сервер упал", who=ANNA)
    talk.say("2", "пароль сезам", who=VERA, at=1)
    talk.delete("2")
    talk.execute("DELETE FROM users WHERE user_id = ANY(%s)", [ANNA, VERA])
    talk.execute("INSERT INTO users (user_id, seen_at) VALUES (%s, now())", PETR)
    for user_id in (ANNA, VERA, PETR):
        assert archive.known_user_id(user_id) == user_id
    for nobody in ("nobody", "no@body.example", ANNA.partition("@")[0]):
        with pytest.raises(NotFound, match=f"the archive has no user {nobody}"):
            archive.known_user_id(nobody)


def test_user_id_that_is_an_e_mail_address_is_the_same_in_any_case(archive: Archive, talk: Talk) -> None:
    talk.say("1", "сервер упал", who=ANNA)
    talk.say("2", "сервер поднят", who="Odd@Corp.example", at=1)
    assert archive.known_user_id(ANNA.title()) == ANNA
    assert archive.known_user_id("odd@corp.EXAMPLE") == "Odd@Corp.example"
    talk.say("3", "и ещё раз", who="odd@corp.example", at=2)
    assert archive.known_user_id("odd@corp.example") == "odd@corp.example"
    with pytest.raises(UsageError, match="several people have the id ODD@"):
        archive.known_user_id("ODD@corp.example")


def test_chat_id_that_is_an_e_mail_address_is_the_same_in_any_case(archive: Archive, talk: Talk) -> None:
    talk.say("0", "сервер")
    talk.say("1", "сервер упал", who=ANNA, chat=ANNA)
    talk.say("2", "сервер поднят", chat="odd@corp.example", at=1)
    assert archive.existing([OPS.upper(), ANNA.title()]) == [OPS, ANNA]
    with talk.connection() as connection:
        assert erasure_rules.spelled_people(connection, [ANNA.title(), "x@y"]) == [ANNA, "x@y"]
    assert archive.existing(["ODD@corp.example"]) == ["odd@corp.example"]
    talk.say("3", "и ещё раз", chat="Odd@corp.example", at=2)
    assert archive.existing(["Odd@corp.example"]) == ["Odd@corp.example"]
    for unknown in ("ODD@corp.example", "no@body.example"):
        with pytest.raises(NotFound, match=f"the archive has no chat {unknown}"):
            archive.existing([unknown])
    # A reader whose time begins later learns no spelling of a chat that fell silent before.
    with pytest.raises(NotFound, match=f"the archive has no chat {ANNA.title()}"):
        archive.existing([ANNA.title()], since=moment(100))


def test_confined_reader_learns_no_spelling_from_other_chats(archive: Archive, talk: Talk) -> None:
    talk.say("1", "сервер упал", who=ANNA)
    talk.say("2", "тише", who=PETR, chat=DEV)
    reader = archive.seen_by(Access("x", frozenset({OPS})))
    assert reader.known_user_id(ANNA.upper(), chat_ids=[OPS]) == ANNA
    for unseen in (PETR.upper(), PETR, "nobody"):
        assert reader.known_user_id(unseen, chat_ids=[OPS]) == unseen


def test_conversations_are_followed_only_within_the_filters(archive: Archive, talk: Talk) -> None:
    talk.say("1", "почему упал сервер", who=ANNA)
    talk.say("2", "кабель выдернули", who=PETR, answers="1", at=1)
    assert ids(archive, "упал сервер", "hybrid") == ["1", "2"]
    assert ids(archive, "упал сервер", "hybrid", user_id=ANNA) == ["1"]
    assert ids(archive, "упал сервер", "hybrid", until=moment(1)) == ["1"]


@pytest.mark.parametrize("mode", ["semantic", "hybrid"])
def test_answer_of_a_small_chat_is_never_short(with_model: Archive, talk: Talk, models_dir: Path, mode: Mode) -> None:
    talk.many([f"сервер {n} упал" for n in range(200)])
    words = [
        "обед",
        "отпуск",
        "печать",
        "премия",
        "парковка",
        "пропуск",
        "лифт",
        "кофе",
        "ключи",
        "почта",
        "окно",
        "стул",
    ]
    for n, word in enumerate(words):
        talk.say(f"d{n}", f"{word} и {word * 2}", chat=DEV, at=n)
    embedded(talk.url, models_dir / "tiny")
    assert len(ids(with_model, "сервер упал", mode, chat_ids=[DEV], limit=12)) == 12


# Spelling correction


def test_answer_does_not_name_a_guess_that_found_nothing(archive: Archive, talk: Talk) -> None:
    talk.say("1", "бэкап за четыре часа", who=ANNA)
    talk.say("2", "the thread was shed, завёл завтра", who=ANNA, at=1)
    answer = archive.search("бэкап шёл четыре часа, зависло")
    assert (answer.hits[0].msg_id, answer.showing) == ("1", None)


@pytest.mark.parametrize("mode", BY_WORDS)
@pytest.mark.parametrize(
    ("query", "showing"),
    [
        ("ghbynth", "принтер"),
        ("printer", "принтер"),
        ("принтир", "принтер"),
        ("ghbynth сломался", "принтер сломался"),
        ("вщслук", "docker"),
        ("докер", "docker"),
        ("dokcer", "docker"),
    ],
)
def test_answer_names_the_corrected_query(archive: Archive, talk: Talk, mode: Mode, query: str, showing: str) -> None:
    talk.say("1", "принтер сломался")
    talk.say("2", "docker не собирается", who=PETR, chat=DEV)
    talk.say("3", "обед в час", who=VERA, at=100)
    answer = archive.search(query, mode=mode)
    assert answer.showing == showing
    assert answer.hits[0].msg_id == ("2" if showing == "docker" else "1")


LOANS = (
    ("backup", "бэкап"), ("deploy", "деплой"), ("meeting", "митинг"), ("release", "релиз"), ("commit", "коммит"),
    ("server", "сервер"), ("login", "логин"), ("update", "апдейт"), ("feedback", "фидбек"), ("deadline", "дедлайн"),
    ("zoom", "зум"), ("slack", "слак"), ("jira", "джира"), ("excel", "эксель"), ("word", "ворд"), ("pdf", "пдф"),
    ("wifi", "вайфай"), ("dashboard", "дашборд"), ("bug", "баг"), ("cache", "кэш"), ("user", "юзер"),
    ("onboarding", "онбординг"), ("feature", "фича"), ("review", "ревью"), ("ticket", "тикет"), ("outlook", "аутлук"),
)  # fmt: skip


def test_loan_word_is_found_in_the_other_script(archive: Archive, talk: Talk) -> None:
    for n, (english, russian) in enumerate(LOANS):
        talk.say(f"e{n}", f"{english}, {n}")
        talk.say(f"r{n}", f"{russian}, {n}", chat=DEV)
    for n, pair in enumerate(LOANS):
        for query, key, chat in ((pair[0], f"r{n}", DEV), (pair[1], f"e{n}", OPS)):
            answer = archive.search(query, mode="text", chat_ids=[chat])
            assert [hit.msg_id for hit in answer.hits][:1] == [key], query
            assert answer.showing == LOANS[n][query == pair[0]], query


def test_loan_word_is_a_guess(archive: Archive, talk: Talk) -> None:
    talk.say("1", "backup готов")
    talk.say("2", "backup готов, rollback не нужен", at=1)
    talk.say("3", "бэкап готов", chat=DEV)
    reader = archive.seen_by(Access("x", frozenset({OPS})))
    for mode in BY_WORDS:
        assert ids(archive, "бэкап готов", mode)[0] == "3"
        assert ids(reader, "бэкап -rollback", mode) == ["1"]
        # The reader of one chat learns no spelling from others.
        other = archive.seen_by(Access("x", frozenset({DEV}))).search("backup", mode=mode)
        assert ([hit.msg_id for hit in other.hits], other.showing) == (["3"], "бэкап")
        assert ids(archive.seen_by(Access("x", frozenset({"other@chat.agent"}))), "backup", mode) == []


def test_word_with_another_first_letter_is_no_typo(archive: Archive, talk: Talk) -> None:
    talk.say("1", "the kettle is on")
    answer = archive.search("settled", mode="text")
    assert (answer.hits, answer.showing) == ([], None)


@pytest.mark.parametrize("mode", BY_WORDS)
def test_single_letter_is_a_preposition_only_beside_words_of_the_other_layout(
    archive: Archive, talk: Talk, mode: Mode
) -> None:
    talk.say("1", "the tree was planted in spring")
    talk.say("2", "сидим в офисе", at=1)
    assert archive.search("b tree", mode=mode).showing is None
    assert archive.search("d jabct", mode=mode).showing == "в офисе"


@pytest.mark.parametrize(
    ("said", "elsewhere", "query"),
    [
        ("мы с Сергеем на обеде", "сервер упал", "сервер"),
        ("lunch is served", "server down", "server"),
        ("вид из окна", "видео не идёт", "видео"),
    ],
)
def test_known_word_is_not_replaced_by_another_word(
    archive: Archive, talk: Talk, said: str, elsewhere: str, query: str
) -> None:
    talk.say("1", said)
    talk.say("2", elsewhere, chat=DEV, at=1)
    assert ids(archive, query, "text") == ["2"]
    answer = archive.search(query, mode="text", chat_ids=[OPS])
    assert (answer.hits, answer.showing, answer.relaxed) == ([], None, False)


@pytest.mark.parametrize(
    ("query", "showing"),
    [
        ("ошибок", "ошибки"),
        ("ошибок порта", "ошибки порта"),
        ("wiki", "вики"),
        ("порт ошибок -wiki", "порт ошибки -wiki"),
        ("доставка ошибок", "доставка ошибки"),
    ],
)
def test_known_word_is_found_in_another_form_or_spelling(
    archive: Archive, talk: Talk, query: str, showing: str
) -> None:
    talk.say("1", "ошибки на портах, доставку отложили, см. вики")
    talk.say("2", "wiki без ошибок, доставят", chat=DEV, at=1)
    answer = archive.search(query, mode="text", chat_ids=[OPS])
    assert ([hit.msg_id for hit in answer.hits], answer.relaxed) == (["1"], False)
    assert answer.showing == showing


@pytest.mark.parametrize("mode", BY_WORDS)
def test_query_that_finds_something_is_not_corrected(archive: Archive, talk: Talk, mode: Mode) -> None:
    talk.say("1", "принтир")
    talk.say("2", "принтер")
    answer = archive.search("принтир", mode=mode)
    assert (answer.hits[0].msg_id, answer.showing, answer.relaxed) == ("1", None, False)


@pytest.mark.parametrize("mode", BY_WORDS)
@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("почта встала", "почта"),  # стало is a guess: it may be another word
        ("почта cnfkj", "стало"),  # the same keys are no guess; of equal weights the newer message comes first
        ("почта stalo", "стало"),
        ("почта стали", "стало"),
    ],
)
def test_guessed_word_counts_less_than_a_typed_one(
    archive: Archive, talk: Talk, mode: Mode, query: str, first: str
) -> None:
    talk.say("почта", "почта ушла", who=PETR)
    talk.say("стало", "тихо стало", chat=DEV, at=1000)
    assert ids(archive, query, mode)[0] == first


@pytest.mark.parametrize("mode", BY_WORDS)
def test_form_that_the_stemmer_missed_is_no_correction(archive: Archive, talk: Talk, mode: Mode) -> None:
    talk.say("1", "письма не доходят")
    talk.say("2", "лис видели", chat=DEV, at=60)
    talk.say("3", "ключи взяла Нина", chat=DEV, at=100_000)
    for query, only in (("писем", "1"), ("взять", "3")):
        answer = archive.search(query, mode=mode)
        assert ([hit.msg_id for hit in answer.hits], answer.showing) == ([only], None), query


def test_common_words_count_for_little_before_the_words_are_counted(archive: Archive, talk: Talk) -> None:
    """Of the twenty messages neither the server's statistics nor the table of words knows."""
    talk.say("both", "сервер и принтер на месте")
    for n in range(19):
        text = "сервер" if n < 2 else "принтер" if n < 4 else "кабель" if n == 4 else f"обед{n}"
        talk.say(str(n), f"{text} на месте", at=60 * (n + 1))
    assert ids(archive, "кабель сервер принтер", "hybrid")[0] == "both"


def test_word_that_only_asks_is_looked_for_alone_or_in_quotes(archive: Archive, talk: Talk) -> None:
    talk.say("1", "вот почему сегодня тихо")
    talk.say("2", "Релиз выкатили в обед")

    def by_words(query: str) -> list[str]:
        hits = archive.search(query).hits
        return [hit.msg_id for hit in hits if any(leg.name == "text" for leg in hit.legs)]

    assert by_words("Почему релиз?") == ["2"]
    assert by_words("Сколько почему?") == by_words('"почему"') == ["1"]
    assert archive.search("сколько релиз").showing is None, "nor is it corrected"


def test_answer_is_relaxed_if_no_message_holds_all_words(archive: Archive, talk: Talk) -> None:
    talk.say("1", "принтер сломался")
    talk.say("2", "принтер куплен", at=1)
    talk.say("3", "обед", at=2)
    answer = archive.search("сломался принтер позавчера", mode="text")
    assert answer.relaxed
    assert [hit.msg_id for hit in answer.hits] == ["1", "2"]
    answer = archive.search("позавчера снежило", mode="text")
    assert (answer.hits, answer.relaxed) == ([], False)


@pytest.mark.parametrize("mode", BY_WORDS)
def test_excluded_words_are_not_found(with_model: Archive, talk: Talk, models_dir: Path, mode: Mode) -> None:
    talk.say("1", "сервер учебный")
    talk.say("2", "сервер боевой", at=1)
    talk.say("3", "учебный стенд ждёт", answers="2", at=2)
    embedded(talk.url, models_dir / "tiny")
    assert ids(with_model, "сервер -учебный", mode) == ["2"]
    assert "3" not in ids(with_model, "сервер стенд -учебный", mode)


@pytest.mark.parametrize("mode", BY_WORDS)
@pytest.mark.parametrize("query", ["и", "???", '"', "OR OR", "-", "a" * 5000, "\x00", "'\\ | & ! <->", "сервер:*&"])
def test_no_query_is_an_error(archive: Archive, talk: Talk, mode: Mode, query: str) -> None:
    talk.say("1", "обед")
    assert archive.search(query, mode=mode).hits == []


@pytest.mark.parametrize("mode", ["hybrid", "semantic"])
def test_query_that_the_model_cannot_read_finds_nothing(
    with_model: Archive, talk: Talk, models_dir: Path, mode: Mode
) -> None:
    talk.say("1", "\u597d")
    embedded(talk.url, models_dir / "tiny")
    answer = with_model.search("\u4f60", mode=mode)
    assert (answer.hits, answer.note) == (
        [],
        "The model tiny knows nothing of this query: no message was found by its meaning.",
    )


@pytest.mark.parametrize("mode", ["hybrid", "semantic"])
def test_note_warns_of_russian_with_an_english_model(
    with_model: Archive, talk: Talk, models_dir: Path, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    monkeypatch.setitem(catalogue.CATALOGUE, "tiny", catalogue.CATALOGUE["all-MiniLM-L6-v2"])
    talk.say("1", "сервер упал")
    talk.say("2", "server down", at=60)
    embedded(talk.url, models_dir / "tiny")
    answer = with_model.search("упал", mode=mode)
    assert answer.hits and answer.note and answer.note.startswith("The model tiny was made for English")
    assert with_model.search("server", mode=mode).note is None
    assert with_model.search("упал", mode="text").note is None


@pytest.mark.parametrize("query", ["the", "и", "OR", "!!!", "-- -сервер"])
def test_note_says_that_a_query_has_no_word_to_look_for(
    archive: Archive, with_model: Archive, talk: Talk, models_dir: Path, query: str
) -> None:
    talk.say("1", "сервер упал")
    assert archive.search(query, mode="text").note == "This query has no word that can be looked for."
    without = archive.search(query)
    assert (without.hits, without.note) == (
        [],
        "This query has no word that can be looked for, and no message has a vector of a model that is installed here.",
    )
    embedded(talk.url, models_dir / "tiny")
    assert (with_model.search(query).note or "").startswith("This query has no word that can be looked for")
    assert archive.search("обед", mode="text").note is None


def test_query_of_exclusions_alone_finds_nothing(with_model: Archive, talk: Talk, models_dir: Path) -> None:
    talk.say("1", "обед")
    talk.say("2", "сервер", at=60)
    embedded(talk.url, models_dir / "tiny")
    answer = with_model.search("-сервер")
    assert (answer.hits, answer.note) == ([], "This query has no word that can be looked for.")


# Hybrid


@pytest.mark.parametrize(
    ("query", "said", "showing"),
    [
        # A guess beside good words spoils what they mean.
        ("why did the mail stop", "why did the mail stop", "why did the mail стоп"),
        ("why did the stop", "why did the stop", "why did the стоп"),
        ("printer broken", "printer broken", "принтер broken"),
        ("mail stopped", "mail stopped", "mail stepped"),
        ('"the mail" stop -обед', "the mail stop", '"the mail" стоп -обед'),
        # Where no word is good in that script, or the keys say it, the corrected words are what is meant.
        ("ghbynth", "принтер", "принтер"),
        ("printer", "принтер", "принтер"),
        ("принтер stop", "принтер стоп", "принтер стоп"),
        ("mail ghbynth", "mail принтер", "mail принтер"),
        ("OPS-142 printer", "OPS-142 принтер", "OPS-142 принтер"),
    ],
)
def test_model_reads_corrections_only_without_good_words_beside_them(
    with_model: Archive,
    talk: Talk,
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
    said: str,
    showing: str,
) -> None:
    monkeypatch.setitem(catalogue.CATALOGUE, "tiny", catalogue.CATALOGUE["all-MiniLM-L6-v2"])
    talk.say("1", "the mail is broken, she stepped out, OPS-142")
    talk.say("2", "стоп, принтер", at=60)
    embedded(talk.url, models_dir / "tiny")
    texts_read: list[str] = []
    embed = Model.embed_texts

    def record(model: Model, texts: Sequence[str], **more: bool) -> object:
        texts_read.extend(texts)
        return embed(model, texts, **more)

    monkeypatch.setattr(Model, "embed_texts", record)
    answer = with_model.search(query)
    assert (texts_read, answer.showing) == ([said], showing)
    assert ("made for English" in (answer.note or "")) is not said.isascii()


def test_reply_without_a_common_word_is_found_by_its_conversation(archive: Archive, talk: Talk) -> None:
    talk.say("1", "почему упал сервер", who=ANNA)
    talk.say("2", "обед в час", who=VERA, at=1)
    talk.say("3", "кабель выдернули", who=PETR, answers="1", at=2)
    hits = archive.search("упал сервер").hits
    assert [hit.msg_id for hit in hits][:2] == ["1", "3"]
    assert [retriever.name for retriever in hits[0].legs] == ["text"]
    assert [retriever.name for retriever in hits[1].legs] == ["conversation"]


def test_repeated_text_is_returned_once(archive: Archive, talk: Talk) -> None:
    talk.say("1", "Внимание! Сервер будет перезагружен в 22:00")
    talk.say("2", "внимание: сервер будет перезагружен в 22:00", at=60, chat=DEV)
    talk.say("3", "сервер перезагружен", at=600)
    assert sorted(ids(archive, "сервер перезагружен", "hybrid")) in (["1", "3"], ["2", "3"])


def test_recency_prefers_the_newer(archive: Archive, talk: Talk) -> None:
    talk.say("1", "сервер упал")
    talk.say("2", "сервер опять упал, причина пока не понятна", at=60 * 24 * 30)
    assert ids(archive, "сервер упал", "hybrid")[0] == "1"
    assert ids(archive, "сервер упал", "hybrid", recency=timedelta(days=1))[0] == "2"


def test_hybrid_without_a_model_uses_words_and_says_so(archive: Archive, talk: Talk) -> None:
    talk.say("1", "сервер упал")
    answer = archive.search("сервер упал")
    assert [hit.msg_id for hit in answer.hits] == ["1"]
    assert answer.note and "by their words alone" in answer.note
    with pytest.raises(ModelAbsent):
        archive.search("сервер упал", mode="semantic")


def test_word_that_is_rare_elsewhere_does_not_hide_a_common_one_here(archive: Archive, talk: Talk) -> None:
    talk.many([f"сервер номер {n}" for n in range(1600)], chat=OPS)
    talk.say("d1", "уникум", chat=DEV)
    hits = archive.search("уникум сервер", chat_ids=[OPS]).hits
    assert hits and all("сервер" in hit.text for hit in hits if hit.text)


def test_note_of_a_topic_is_that_of_its_search(
    with_model: Archive, talk: Talk, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalogue.CATALOGUE, "tiny", catalogue.CATALOGUE["all-MiniLM-L6-v2"])
    talk.say("1", "сервер упал")
    embedded(talk.url, models_dir / "tiny")
    answer = with_model.context("topic", query="упал")
    assert answer.conversations and answer.note and answer.note.startswith("The model tiny was made for English")


def test_note_says_that_hits_come_from_meaning_alone(with_model: Archive, talk: Talk, models_dir: Path) -> None:
    talk.say("1", "сервер упал")
    embedded(talk.url, models_dir / "tiny")
    answer = with_model.search("кофе")
    assert [hit.msg_id for hit in answer.hits] == ["1"]
    assert answer.note == "No word of this query was found: all this comes from its meaning alone."
    assert (with_model.search("и в").note or "").startswith("This query has no word that can be looked for")
    assert with_model.search("упал").note is None


def test_hit_has_the_rank_of_each_retriever(with_model: Archive, talk: Talk, models_dir: Path) -> None:
    talk.say("1", "сервер упал ночью")
    talk.say("2", "обед в час", at=600)
    embedded(talk.url, models_dir / "tiny")
    answer = with_model.search("сервер упал ночью")
    assert answer.note is None
    retrievers = {retriever.name: retriever for retriever in answer.hits[0].legs}
    assert (retrievers["text"].rank, retrievers["semantic"].rank) == (1, 1)
    assert retrievers["text"].share == pytest.approx(1)
    assert retrievers["semantic"].score == pytest.approx(1, abs=1e-3)


# Context, pages, coverage


def test_context_is_in_order_of_time_and_of_any_author(archive: Archive, talk: Talk) -> None:
    for n in range(7):
        talk.say(str(n), "сервер упал" if n == 3 else f"слово {n}", who=(ANNA, PETR)[n % 2], at=n)
    hit = archive.search("упал", context=2, user_id=PETR).hits[0]
    assert hit.msg_id == "3"
    assert [said.msg_id for said in hit.context] == ["1", "2", "4", "5"]


@pytest.mark.parametrize("mode", MODES)
def test_pages_add_up_while_messages_arrive(with_model: Archive, talk: Talk, models_dir: Path, mode: Mode) -> None:
    words = ["альфа", "бета", "гамма", "дельта", "омега", "сигма", "каппа", "ламбда", "эпсилон", "фита", "йота"]
    for n, word in enumerate(words):
        talk.say(str(n), f"сервер {word} упал", at=60 * n, who=(ANNA, PETR, VERA)[n % 3])
    embedded(talk.url, models_dir / "tiny")
    whole = ids(with_model, "сервер упал", mode, limit=20)
    assert len(whole) == len(words)
    msg_ids, cursor = [], None
    for page in range(4):
        answer = with_model.search("сервер упал", mode=mode, limit=3, cursor=cursor)
        msg_ids += [hit.msg_id for hit in answer.hits]
        cursor = answer.cursor
        assert (cursor is None) == (page == 3)
        talk.say(f"new{page}", "сервер упал", at=10_000 + page)
        embedded(talk.url, models_dir / "tiny")
    assert msg_ids == whole


def test_cursor_belongs_to_its_question(archive: Archive, talk: Talk) -> None:
    talk.say("1", "сервер упал")
    talk.say("2", "сервер опять упал", at=600)
    cursor = archive.search("сервер", mode="text", limit=1).cursor
    assert ids(archive, "сервер", "text", limit=1, cursor=cursor) == ["1"]
    with pytest.raises(UsageError, match="another question"):
        archive.search("упал", mode="text", cursor=cursor)
    with pytest.raises(UsageError, match="another question"):
        archive.search("сервер", mode="text", chat_ids=[OPS], cursor=cursor)


def test_cursor_stays_valid_when_the_reader_may_see_another_thread(archive: Archive, talk: Talk) -> None:
    talk.say("1", "сервер упал")
    talk.say("2", "сервер упал", at=1)
    reader = Access("x", frozenset({OPS}))

    def page(cursor: str | None = None) -> SearchResult:
        seen = archive.seen_by(reader)
        return seen.search("сервер", mode="text", limit=1, chat_ids=seen.visible_chats, cursor=cursor)

    first = page()
    talk.say("3", "в треде", at=2, chat="693000001@chat.agent", below=(OPS, "1"))
    assert archive.seen_by(reader).visible_chats == {OPS, "693000001@chat.agent"}
    assert [hit.msg_id for hit in (*first.hits, *page(first.cursor).hits)] == ["2", "1"]
    with pytest.raises(UsageError, match="another question"):
        archive.seen_by(reader).search("сервер", mode="text", limit=1, chat_ids=[OPS], cursor=first.cursor)


def test_cursor_stays_valid_when_since_moves_on(archive: Archive, talk: Talk) -> None:
    talk.say("1", "сервер упал")
    talk.say("2", "сервер опять упал", at=600)
    began = datetime(2020, 1, 1, tzinfo=UTC)
    cursor = archive.search("сервер", mode="text", limit=1, since=began).cursor
    assert ids(archive, "сервер", "text", limit=1, since=began + timedelta(seconds=3), cursor=cursor) == ["1"]


def test_answer_has_the_coverage(with_model: Archive, talk: Talk, models_dir: Path) -> None:
    talk.say("1", "сервер упал", at=5)
    embedded(talk.url, models_dir / "tiny")
    talk.say("2", "сервер поднялся", at=6)
    talk.event("newMessage", text="без чата")
    coverage = with_model.search("сервер").coverage
    assert (coverage.archived_since, coverage.without_vector, coverage.models) == (moment(5), 1, ("tiny",))
    assert coverage.gaps == ("1 event is stored but could not be read",)
