"""A message is found by what a reader sees of it, in whatever characters it and the query are written."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.harness.old_schema import make_archive_before
from tests.harness.talk import ANNA, DEV, OPS, PETR, VERA, Talk
from tests.harness.waiting import until
from vkteams_daemon.access import Access
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.search_terms import refill_loop
from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.errors import NotFound, UsageError
from vkteams_daemon.options import Database, Embedding
from vkteams_daemon.search import archive_coverage
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.store import schema
from vkteams_daemon.store.derive import chat_locks
from vkteams_daemon.store.rebuild import search_terms
from vkteams_daemon.store.words import searched_texts


@pytest.fixture
def archive(talk: Talk) -> Iterator[Archive]:
    """The archive of the talk, without a model."""
    config = Config(database=Database(url=talk.url), embedding=Embedding(models_dir="/nonexistent"))
    with Archive(config) as archive:
        yield archive


def ids(archive: Archive, query: str, **more: Any) -> list[str]:
    result = archive.search(query, mode="text", **more)
    return [] if result.relaxed or result.showing else [hit.msg_id for hit in result.hits]


SHOWN = [
    ("Андрей принёс кофейник", ["андрей", "принес", unicodedata.normalize("NFD", "Андрей")]),
    (unicodedata.normalize("NFD", "йод и ёлка"), ["йод", "елка", "ёлка"]),
    ("cepвep лиcичка упал", ["сервер лисичка", "cepвep", "лиcичка"]),
    ("заявка на РO-512 cогласована", ["согласована", "РO-512", "PO-512", "РО-512", "po-512"]),
    ("счёт AB-77 на MOCKBA", ["МОСКВА", "АВ-77", "AB-77"]),
    ("сер\u00adвер перегру\u00adжен", ["сервер", "перегружен", "сер\u00adвер"]),
    ("замо\u0301к, ко\u200bбра, не\u2011разрывный", ["замок", "замо\u0301к", "кобра", "неразрывный OR не-разрывный"]),
    ("ＦＵＬＬ ﬁle café 🔥", ["full", "file", "cafe", "café", "🔥", "ＦＵＬＬ"]),
    ("Телефон +7 (999) 123-45-67", ["89991234567", "8 999 1234567", "+7 999 123-45-67", "9991234567"]),
    ("звони 89161112233", ["+7 916 111-22-33", "8 (916) 111 22 33"]),
    ("Сумма 1 250 000,50 руб.", ["1250000", "1 250 000", "1.250.000,50", "1250000.5", "1 250 000,50 ₽"]),
    ("итого 1250000 и -15%", ["1 250 000 ₽", "1.250.000,00", "-15", "−15%", "15 %"]),
    ("сборка v3.11.2-rc1, python3.12", ["3.11.2", "v3.11.2", "V3.11.2-RC1", "python 3.12", "python3.12"]),
    ("срок 24.11.2026", ["24.11.2026", "2026-11-24", "24 ноября 2026", "Nov 24, 2026", "24/11/2026", "24 ноября"]),
    ("24 ноября 2026 г. и 5 мая", ["24.11.2026", "11/24/2026", "05.05", "may 5", "24.11.26"]),
    ("№ 45 за 500мб и 1500₽", ["№45", "500 мб", "500МБ", "1500 ₽", "₽1500"]),
    ("docker run -it --rm ubuntu:22.04", ["docker run --rm ubuntu", "docker run -it --rm ubuntu:22.04", "ubuntu"]),
    ("kubectl logs --tail=50 -n prod web-0", ["kubectl logs --tail=50 -n prod", "kubectl -n prod", "web-0"]),
    ("OPS142 и OPS-143", ["ops-142", "OPS143", "ops 143", "ops142"]),
    ("Wi-Fi упал, e-mail не ходит, онлайн-касса", ["wifi", "WiFi", "wi‑fi", "email", "e-mail", "онлайнкассы", "касса"]),
    ("wifi упал, email не ходит", ["Wi-Fi", "wi-fi", "e-mail", "E-MAIL"]),
    ("договор, срок 24.11.2026г.", ["24 ноября 2026", "24 ноября", "2026-11-24", "24.11.2026 г."]),
    ("сдать к 1-му декабря", ["1 декабря", "01.12", "1-ое декабря", "1 дек"]),
    ("база 1C и ракета С-400", ["1С", "1с", "С-400"]),
    ("https://ru.wikipedia.org/wiki/%D0%9C%D0%BE%D1%81%D0%BA%D0%B2%D0%B0_BE", ["Москва", "wiki/Москва"]),
    ("getUserName вернул HTTPServerError", ["getusername", "user name", "server", "#getUserName"]),
    ("VPNом по οптике ⭐", ["vpn", "оптика", "VPN", "⭐"]),
    ("выполни ls -la", ["ls -la"]),
    ("tar -xzvf arch.tgz; openssl x509 -noout", ["tar -xzvf", "openssl x509 -noout"]),
    ("накладная N453 и A-1029", ["№453", "453", "N453", "n453", "A1029", "А1029", "а-1029", "a1029"]),
    ("накладная №453 по Т-34 и А1029", ["N453", "№ 453", "Т34", "т-34", "T34", "A-1029", "A1029"]),
    ("сверка за март 2026", ["03.2026", "03/2026", "2026-03", "марта 2026", "в марте 2026", "March 2026", "Mar. 2026"]),
    ("в феврале — план, акт 2026, срок 05.03.2026 и 07.2026", ["март 2026", "2026-03", "июль 2026", "февраль 2026"]),
    ("экран 1920 x 1080, коробка 10х20х30", ["1920x1080", "1920×1080", "1920*1080", "1920 х 1080", "10 x 20 x 30"]),
    ("экран 1920×1080, коробка 10*20*30", ["1920x1080", "1920 x 1080", "1920 * 1080", "1920 × 1080", "10x20x30"]),
    ("упал NullPointerException", ["NullPointer", "PointerException", "null pointer", "nullpointerexception"]),
    ("вышла null-ссылка: null pointer", ["NullPointer", "nullPointer"]),
    ("пишем на C# и C++, з/п и б/у", ["С#", "c#", "с++", "C++", "зп", "з/п", "бу"]),
    ("userId пуст, nodejs и x64, диск 5 ГБ", ["user_id", "node.js", "х64", "x64", "5GB", "5 gb", "5гб", "user-id"]),
    ("зп на С#, бу техника", ["з/п", "C#", "б/у"]),
    ("пиши на Ivan.Petrov@corp.example", ["ivan.petrov@corp.example", "petrov", "@corp.example"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "query"),
    [("user и id", "user_id"), ("по плану 9.5 из 10", "N95"), ("n8n упал", "8"), ("язык C", "C#"),
     ("1920 и 1080", "1920x1080"),
     ("отчёт за март 2025", "03.2026"), ("03 и 2026", "март 2026"), ("pointer без null?", "NullReference")],
)  # fmt: skip
def test_other_words_are_not_taken_for_it(archive: Archive, talk: Talk, text: str, query: str) -> None:
    talk.say("1", text)
    assert ids(archive, query) == []


@pytest.mark.parametrize(("text", "queries"), SHOWN, ids=lambda value: value if isinstance(value, str) else "")
def test_message_is_found_by_what_is_shown(archive: Archive, talk: Talk, text: str, queries: list[str]) -> None:
    talk.say("1", text)
    talk.say("other", "ничего общего", at=1)
    for query in [text, *queries]:
        assert ids(archive, query) == ["1"], query


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("градусов 15", "-15"), ("24.11.2025", "24.11.2026"), ("1с не работает", "1к"), ("10.20.30.40", "10.20.30.41"),
        ("getUser", "getName"), ("user и get", "getUser"), ("тест -la", "тест -la"),
        ("сор", "cop"), ("ядро 142 и OPS", "OPS142"), ("1 250 001", "1250000"),
        ("из-за дождя", "изза"), ("corp.example/wi-fi", "wifi"),
    ],
)  # fmt: skip
def test_other_message_is_not_found(archive: Archive, talk: Talk, text: str, query: str) -> None:
    talk.say("1", text)
    assert ids(archive, query) == []


def test_word_is_marked_as_it_is_shown(archive: Archive, talk: Talk) -> None:
    talk.say("1", "сер\u00adвер 1 250 000 руб., за\u00adмо\u0301к")
    hit = archive.search("сервер 1250000 замок", mode="text").hits[0]
    assert hit.snippet == "**сер\u00adвер** **1 250 000** руб., **за\u00adмо\u0301к**"


def test_snippet_of_a_long_message_is_around_its_matches(archive: Archive, talk: Talk) -> None:
    talk.say("1", " ".join(f"слово{n}" for n in range(2000)) + " росомаха в конце, и ещё немного слов " + "а " * 500)
    snippet = archive.search("росомаха конце", mode="text").hits[0].snippet
    assert "**росомаха** в **конце**" in snippet
    assert len(snippet) < 400


def test_minus_excludes_a_word_and_the_answer_says_so_when_it_finds_nothing(archive: Archive, talk: Talk) -> None:
    talk.say("1", "сервер тест")
    assert ids(archive, "сервер -проба") == ["1"]
    result = archive.search("сервер -тест", mode="text")
    assert result.hits == []
    assert result.note == 'Messages with "тест" were left out. To look for -тест itself, put it in quotes.'
    assert archive.search('сервер "-тест"', mode="text").hits


def test_whole_of_a_long_message_is_searched(archive: Archive, talk: Talk) -> None:
    talk.say("1", " ".join(f"слово{n}" for n in range(15_000)) + " концовкаальфа OPS-142")
    assert ids(archive, "концовкаальфа") == ["1"]
    assert ids(archive, "OPS-142") == ["1"]
    assert ids(archive, "слово14999") == ["1"]
    assert not archive.search("слово1", mode="text").coverage.gaps


def test_answer_says_that_a_message_is_too_long_to_be_searched_whole(archive: Archive, talk: Talk) -> None:
    talk.say("1", " ".join(f"слово{n}" for n in range(60_000)))
    assert ids(archive, "слово1") == ["1"]
    assert ids(archive, "слово59999") == []
    gaps = archive.search("слово1", mode="text").coverage.gaps
    assert gaps == ("1 message is too long to be searched to the end by words",)


def test_snippet_shows_a_word_at_the_end_of_a_long_message(archive: Archive, talk: Talk) -> None:
    talk.say("1", " ".join(f"строка {n % 700}" for n in range(12_000)) + " а здесь сервер упал")
    found = archive.search("сервер упал", mode="text").hits[0].snippet
    assert found.endswith("а здесь **сервер** **упал**") and len(found) < 300


def test_replay_makes_the_terms_again(archive: Archive, talk: Talk) -> None:
    from vkteams_daemon.store.rebuild import replay

    talk.say("1", "сер\u00adвер упал")
    talk.execute("DELETE FROM messages")
    with talk.connection() as connection:
        replay.everything(connection, erase=False)
    assert ids(archive, "сервер") == ["1"]


# The refill after an upgrade


def _age(talk: Talk) -> None:
    """Give every message the terms of a version that did not fold."""
    talk.execute("UPDATE messages SET search = to_tsvector('vkteams', text), search_version = 0")


def test_old_terms_are_made_again_beside_a_writer(
    archive: Archive, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk.many([f"сер\u00adвер {n}" for n in range(500)])
    talk.many([f"сер\u00adвер {n}" for n in range(20)], chat=DEV, first=1000)
    _age(talk)
    result = archive.search("сервер", mode="text", limit=1)
    assert result.coverage.gaps == (
        "520 older messages get new index terms after an upgrade; until then some words miss them",
    )
    with monkeypatch.context() as patched:  # of a whole archive the rest is not counted in each answer
        patched.setattr(archive_coverage, "_MANY", 500)
        (gap,) = archive.search("сервер", mode="text", limit=1).coverage.gaps
        assert gap.startswith("more than 500 older messages get")
    steps: list[tuple[int, int]] = []
    with talk.connection() as connection:
        # A message arrives in the middle: the refill holds no lock between two batches.
        def pause() -> bool:
            talk.say(f"new{len(steps)}", "сервер", at=9000 + len(steps))
            return False

        assert search_terms.refill(connection, progress=lambda *step: steps.append(step), pause=pause) == 0
    assert steps[-1] == (520, 520)
    found = archive.search("сервер", mode="text", limit=1000)
    assert len(found.hits) == 520 + len(steps)
    assert found.coverage.gaps == ()


def test_refill_leaves_out_locked_chats_and_comes_back(talk: Talk) -> None:
    talk.say("1", "сер\u00adвер")
    talk.say("2", "сер\u00adвер", chat=DEV)
    _age(talk)
    stopping = threading.Event()
    with talk.connection() as holder, holder.transaction():
        chat_locks.lock_chats(holder, [OPS])
        with talk.connection() as connection:
            assert search_terms.refill(connection) == 1
        thread = threading.Thread(target=refill_loop, args=(talk.connection, stopping, lambda: True, Pulse(), 0.05))
        thread.start()
    until(lambda: talk.rows("SELECT count(*) FROM messages WHERE search_version = 0") == [(0,)], 30, "the refill")
    thread.join(30)
    assert not thread.is_alive()


def test_refill_that_is_stopped_goes_on_later(talk: Talk) -> None:
    talk.many([f"слово {n}" for n in range(500)])
    _age(talk)
    with talk.connection() as connection:
        assert search_terms.refill(connection, pause=lambda: True) == 300
        assert search_terms.refill(connection) == 0
    assert talk.rows("SELECT DISTINCT search_version FROM messages") == [(searched_texts.VERSION,)]


def test_the_index_of_old_terms_has_the_version_of_the_code(talk: Talk) -> None:
    """A migration replaces the index whenever the version is raised."""
    bound = "SELECT pg_get_expr(indpred, indrelid) FROM pg_index WHERE indexrelid = 'messages_search_version'::regclass"
    assert talk.rows(bound) == [(f"(search_version < {searched_texts.VERSION})",)]


def test_upgrade_keeps_messages_searchable(empty_database_url: str) -> None:
    make_archive_before(empty_database_url, "search_version")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO messages (chat_id, msg_id, sent_at, received_at, text) VALUES (%s, '1', now(), now(), %s)",
            (OPS, "сервер упал, сер\u00adвер"),
        )
    schema.migrate(empty_database_url)
    config = Config(database=Database(url=empty_database_url), embedding=Embedding(models_dir="/nonexistent"))
    with Archive(config) as archive:
        assert ids(archive, "упал") == ["1"]
        assert "1 older message gets" in archive.search("упал", mode="text").coverage.gaps[0]


# What stands outside the text


FILE = {"type": "file", "payload": {"fileId": "f1", "caption": "схема кедровка", "filename": "отчёт_Q3.xlsx"}}
INNER: dict[str, Any] = {
    "msgId": "75", "from": {"userId": "old@corp.example", "firstName": "Старый", "lastName": "Знакомый"},
    "timestamp": 1_795_000_000, "text": "переносим релиз на росомаху",
}  # fmt: skip


def _quote(kind: str, **message: Any) -> dict[str, Any]:
    return {"type": kind, "payload": {"message": INNER | message}}


PLAIN, WITH_FILE = _quote("forward"), _quote("forward", text="", parts=[FILE])
NESTED = _quote("forward", text="", parts=[_quote("forward", parts=[FILE])])
ANSWERED = _quote("reply", parts=[FILE, _quote("forward", text="вглубь ондатра")])
LINK = {"link": [{"offset": 7, "length": 4, "url": "https://wiki.corp.example/RUNBOOK-77"}]}
BUTTONS = [[{"text": "Пуск фламинго"}], [{"text": "Доска", "url": "https://grafana.corp.example/d/zebra-42"}]]
BUKIN = {"userId": "1234567890", "firstName": "Геннадий", "lastName": "Букин"}
OUTSIDE: list[tuple[str, dict[str, Any], list[str]]] = [
    ("смотри", {"parts": [FILE]}, ["кедровка", "отчёт_Q3.xlsx", "отчет q3"]),
    ("смотри", {"parts": [PLAIN]}, ["переносим росомаху"]),
    ("смотри", {"parts": [WITH_FILE]}, ["кедровка", "отчёт_Q3"]),
    ("смотри", {"parts": [NESTED]}, ["росомаху", "кедровка"]),
    ("смотри", {"parts": [ANSWERED]}, ["росомаху", "ондатра", "кедровка"]),
    ("смотри сюда", {"format": LINK}, ["RUNBOOK-77", "https://wiki.corp.example/RUNBOOK-77"]),
    ("Выберите", {"parts": [{"type": "inlineKeyboardMarkup", "payload": BUTTONS}]}, ["фламинго", "zebra-42", "доска"]),
    ("@[1234567890] глянь", {"parts": [{"type": "mention", "payload": BUKIN}]},
     ["Букин", '"@Геннадий Букин глянь"', "1234567890", "@Геннадий"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "more", "queries"), OUTSIDE)
def test_what_stands_outside_the_text_is_found(
    archive: Archive, talk: Talk, text: str, more: dict[str, Any], queries: list[str]
) -> None:
    chat = {"chatId": OPS, "type": "group"}
    talk.event("newMessage", msgId="1", timestamp=1_796_000_000, chat=chat, text=text, **more)
    for query in queries:
        assert ids(archive, query) == ["1"], query


def test_mention_is_shown_by_name(archive: Archive, talk: Talk) -> None:
    talk.say("0", "я здесь", who=PETR)
    talk.say("1", f"@[{PETR}] и @[nobody] глянь", at=1, who=ANNA)
    assert archive.search("глянь", mode="text").hits[0].text == "@Пётр и @nobody глянь"


def test_quoted_words_are_told_from_own_ones(archive: Archive, talk: Talk) -> None:
    talk.say("1", "согласен", parts=(_quote("forward", parts=[_quote("forward", text="раньше", msgId="74")]),))
    hit = archive.search("росомаха", mode="text").hits[0]
    assert (hit.own_text, hit.author) == ("согласен", "Анна Иванова")
    assert [(q.kind, q.author, q.text, q.msg_id, q.depth) for q in hit.quotes] == [
        ("forward", "Старый Знакомый", "переносим релиз на росомаху", "75", 0),
        ("forward", "Старый Знакомый", "раньше", "74", 1),
    ]
    talk.say("2", None, at=1, parts=(_quote("forward"),))
    (forward,) = [message for message in archive.latest() if message.msg_id == "2"]
    assert (forward.own_text, forward.text) == ("", "переносим релиз на росомаху")


@pytest.mark.parametrize("mode", ["text", "hybrid"])
def test_original_ranks_before_its_copies(archive: Archive, talk: Talk, mode: Any) -> None:
    talk.say("original", "переносим релиз на росомаху")
    talk.say("forward", None, at=5, parts=(_quote("forward", msgId="original"),))
    talk.say("answer", "да", at=6, parts=(_quote("reply", msgId="original"),))
    found = [hit.msg_id for hit in archive.search("переносим росомаху", mode=mode).hits]
    assert found[0] == "original"


def test_message_known_by_a_quote_alone_is_shown_in_its_conversation(archive: Archive, talk: Talk) -> None:
    talk.say("1", "согласен", parts=(_quote("reply"),))
    assert ids(archive, "переносим") == ["1"]
    quoted, answer = archive.thread(OPS, "1")
    assert (quoted.msg_id, quoted.author, quoted.known_by_quote) == ("75", "Старый Знакомый", True)
    assert not answer.known_by_quote
    talk.say("75", "переносим релиз на росомаху", at=-9)
    assert [message.known_by_quote for message in archive.thread(OPS, "1")] == [False, False]
    assert ids(archive, "переносим") == ["75", "1"]
    talk.delete("75")
    # What was deleted does not come back by a quote.
    assert [message.msg_id for message in archive.thread(OPS, "1")] == ["1"]
    assert archive.search("согласен", mode="text").hits[0].quotes == ()


def test_blank_name_is_unknown(archive: Archive, talk: Talk) -> None:
    talk.say("1", "привет", who=ANNA)
    for names in ({"firstName": "", "lastName": " "}, {"firstName": "\u200b", "nick": "\u3164"}):
        talk.event("newMessage", msgId=str(names), timestamp=1, text="ещё", chat={"chatId": OPS, "title": " "},
                   **{"from": {"userId": ANNA, **names}})  # fmt: skip
    assert archive.search("привет", mode="text").hits[0].author == "Анна Иванова"
    assert archive.chats()[0].title == "Эксплуатация"
    assert {message.author for message in archive.latest()} == {"Анна Иванова"}


# Names


@pytest.fixture
def people(talk: Talk) -> Talk:
    """Anna Ivanova, Pyotr and Vera Lis in two chats."""
    talk.say("1", "раз", who=ANNA)
    talk.say("2", "два", who=PETR, at=1)
    talk.say("3", "три", who=VERA, chat=DEV, at=2)
    return talk


@pytest.mark.parametrize(
    ("name", "user_id"),
    [
        (ANNA, ANNA), (ANNA.upper(), ANNA), ("Анна Иванова", ANNA), ("иванова анна", ANNA), ("Иван", ANNA),
        ("ivanova", ANNA), ("Anna", ANNA), ("Bdfyjdf", ANNA), ("@Пётр", PETR), ("Петр", PETR), ("Petr", PETR),
        ("Аня", ANNA), ("Анюта Иванова", ANNA), ("Fyz", ANNA), ("Petya", PETR), ("Петя", PETR),
        ("Dthf", VERA), ("v.lis", VERA), ("сер\u00adвер", None), ("Kozlov", None), ("ова", None),
    ],
)  # fmt: skip
def test_person_is_found_by_any_name(archive: Archive, people: Talk, name: str, user_id: str | None) -> None:
    if user_id is None:
        with pytest.raises(NotFound, match="the archive has no user called"):
            archive.find_user(name)
    else:
        assert archive.find_user(name).id == user_id


def test_several_people_of_a_name_are_listed_and_the_nearest_offered(archive: Archive, people: Talk) -> None:
    people.event("newMessage", msgId="9", timestamp=1, text="я", chat={"chatId": OPS}, **{
        "from": {"userId": "a.petrova@corp.example", "firstName": "Анна", "lastName": "Петрова"}})  # fmt: skip
    with pytest.raises(UsageError, match=r"several people are called Анна: Анна Иванова \(a.ivanova.*; Анна Петрова"):
        archive.find_user("Анна")
    with pytest.raises(NotFound) as refused:
        archive.find_user("Анна Иваново")
    assert "Анна Иванова (a.ivanova@corp.example)" in (refused.value.hint or "")
    assert archive.find_chat("эксплуат").id == OPS
    assert archive.find_chat("Develop").sentence == f"chat Develop: Development ({DEV})"


def test_confined_reader_finds_only_whom_they_may_see(archive: Archive, people: Talk) -> None:
    confined = archive.seen_by(Access("x", frozenset({OPS})))
    assert confined.find_user("Анна", chat_ids=[OPS]).id == ANNA
    for name in ("Вера", "Вер", "v.lis"):
        with pytest.raises(NotFound) as refused:
            confined.find_user(name, chat_ids=[OPS])
        assert "Лис" not in str(refused.value.hint)
    with pytest.raises(NotFound):
        confined.find_chat("Development", chat_ids=[OPS])


def test_a_title_means_the_chat_and_not_its_threads(archive: Archive, people: Talk) -> None:
    people.say("t", "ответ", chat="thread", below=(OPS, "1"), at=5)
    for reader in (archive, archive.seen_by(Access("x", frozenset({OPS, "thread"})))):
        assert reader.find_chat("эксплуат").id == OPS
        assert reader.find_chat("thread").id == "thread"


# Filters


def test_filters_choose_by_what_a_message_has(archive: Archive, talk: Talk) -> None:
    image = {"type": "file", "payload": {"fileId": "f", "type": "image"}}
    talk.say("plain", "слово")
    talk.say("file", "слово", at=1, parts=(FILE,))
    talk.say("image", "слово", at=2, parts=(image,))
    talk.say("voice", "слово", at=3, parts=({"type": "voice", "payload": {"fileId": "v"}},))
    talk.say("forward", "слово", at=4, parts=(_quote("forward", parts=[image]),))
    talk.say("link", "слово https://corp.example/x", at=5)
    talk.say("mention", f"слово @[{PETR}]", at=6)
    talk.edit("plain", "слово новое", at=7)

    def found(**filters: Any) -> set[str]:
        return set(ids(archive, "слово", **filters))

    assert found(has=["file"]) == {"file", "image", "forward"}
    assert found(has=["image"]) == {"image", "forward"}
    assert found(has=["voice"]) == {"voice"}
    assert found(has=["link"]) == {"link"}
    assert found(has=["mention"]) == {"mention"} == found(mentions=PETR)
    assert found(has=["file", "link"]) == set() == found(mentions=ANNA)
    assert found(edited=True) == {"plain"}
    result = archive.search(" ", has=["file"], limit=2)
    assert [hit.msg_id for hit in result.hits] == ["forward", "image"] and result.mode == "text", "the newest"
    assert [hit.msg_id for hit in archive.search(" ", has=["file"], cursor=result.cursor).hits] == ["file"]
    hit = archive.search("слово", mode="text", has=["voice"], context=1).hits[0]
    assert hit.parts == ("voice",)
    assert [message.msg_id for message in hit.context] == ["image", "forward"]


@pytest.mark.parametrize("mode", ["text", "hybrid"])
def test_newest_come_first_on_every_page(archive: Archive, talk: Talk, mode: Any) -> None:
    talk.many([f"слово {n}" + " и ещё" * (n % 3) for n in range(9)])
    pages, cursor = [], None
    for _ in range(3):
        page = archive.search("слово", mode=mode, newest_first=True, limit=3, cursor=cursor)
        pages += [hit.msg_id for hit in page.hits]
        cursor = page.cursor
    assert pages == [f"m{n}" for n in range(9, 0, -1)]


def test_deleted_and_earlier_texts_are_found_where_they_are_kept(archive: Archive, talk: Talk) -> None:
    talk.say("1", "пароль осина")
    talk.edit("1", "пароль берёза", at=1)
    talk.say("2", "пароль дуб", at=2)
    talk.delete("1")
    assert ids(archive, "пароль") == ["2"]
    assert ids(archive, "пароль", deleted=True) == ["1"]
    with pytest.raises(UsageError, match="deleted messages have no vectors"):
        archive.search("пароль", deleted=True)
    history = archive.versions(archive.chat_of("1", deleted=True), "1")
    assert [version.text for version in history.versions] == ["пароль осина", "пароль берёза"]
    assert history.deleted_at is not None
    with pytest.raises(NotFound):
        archive.versions(OPS, "none")
