"""From rows of the queue to vectors: what a worker stores, what it need not compute, and what it leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.harness.embedding import Chat, WatchedModel
from tests.harness.models import write_encoder
from tests.harness.waiting import until
from vkteams_daemon.daemon.workers import worker
from vkteams_daemon.daemon.workers.worker import Stopped
from vkteams_daemon.daemon.workers.worker_loop import take_turns
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.embedding.install import installer
from vkteams_daemon.embedding.model import Chunk, Model
from vkteams_daemon.search.archive_coverage import coverage
from vkteams_daemon.search.history.statistics import statistics
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store import queue

TEXTS = ("the proxy is down again", "кто дежурит сегодня?", "restart the proxy please")


def test_messages_get_the_vectors_of_their_texts(chat: Chat, model: WatchedModel) -> None:
    chat.register(model)
    chat.say(*TEXTS)
    assert chat.queued() == {"m1": 0, "m2": 0, "m3": 0}
    tally = chat.embed(model)
    assert chat.queued() == {}
    assert chat.chunks() == {"m1": 1, "m2": 1, "m3": 1}
    for number, text in enumerate(TEXTS, 1):
        assert chat.likeness(model, f"m{number}", text) == pytest.approx(1, abs=1e-3)
    assert (tally.embedded, tally.failed, tally.queued) == (3, 0, 0)
    assert len(tally.row_to_vector) == 3 and all(0 <= age < 60_000 for age in tally.row_to_vector)


def test_messages_from_before_the_model_are_embedded(chat: Chat, model: WatchedModel) -> None:
    chat.say(*TEXTS, "", "deleted soon")
    chat.delete("m5")
    assert chat.queued() == {}
    tally = chat.embed(model)
    assert chat.chunks() == {"m1": 1, "m2": 1, "m3": 1}
    assert tally.embedded == 3
    assert not tally.row_to_vector, "how old the archive is says nothing about the workers' speed"


def test_vectors_and_queue_rows_change_in_one_transaction(chat: Chat, tiny_model_dir: Path) -> None:
    seen: list[tuple[dict[str, int], dict[str, int]]] = []
    model = WatchedModel(Model.load(tiny_model_dir), lambda _: seen.append((chat.queued(), chat.chunks())))
    chat.register(model)
    chat.say(*TEXTS)
    chat.execute("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$")
    chat.execute("CREATE TRIGGER refuse BEFORE DELETE ON embedding_queue FOR EACH ROW EXECUTE FUNCTION refuse()")
    at_work = chat.worker(model)
    with pytest.raises(Exception, match="no"):
        at_work.round()
    assert chat.queued() == {"m1": 0, "m2": 0, "m3": 0}
    assert chat.chunks() == {}, "vectors are stored with the end of their queue rows or not at all"
    chat.execute("DROP TRIGGER refuse ON embedding_queue")
    assert at_work.round() == 3
    assert chat.queued() == {} and len(chat.chunks()) == 3
    assert all(queue == {"m1": 0, "m2": 0, "m3": 0} and not vectors for queue, vectors in seen)


def test_the_same_text_is_embedded_once(chat: Chat, model: WatchedModel) -> None:
    chat.register(model)
    chat.say("ok", "thanks", "ok", "ok", "OK")
    chat.embed(model)
    assert len(model.embedded) == 2, "the tokenizer makes lower case of it: OK is ok"
    chat.say("ok", "thanks", first=6)
    chat.embed(model)
    assert len(model.embedded) == 2, "texts of an earlier round are known too"
    assert chat.chunks() == {f"m{number}": 1 for number in range(1, 8)}
    assert chat.likeness(model, "m7", "thanks") == pytest.approx(1, abs=1e-3)


def test_a_long_message_is_embedded_whole(chat: Chat, model: WatchedModel) -> None:
    text = " ".join(f"server{number} is down" for number in range(60))
    chat.register(model)
    chat.say(text)
    chat.embed(model)
    parts = model.chunks(text)
    assert len(parts) > 3 and chat.chunks() == {"m1": len(parts)}
    whole = Model.chunks(model, text)  # type: ignore[arg-type]
    assert {chunk.ids for chunk in model.embedded} == {chunk.ids for chunk in whole}
    numbers = [number for (number,) in chat.rows("SELECT chunk FROM embeddings ORDER BY chunk")]
    assert numbers == list(range(len(parts)))


def test_an_edit_leaves_no_chunk_of_the_longer_text(chat: Chat, model: WatchedModel) -> None:
    chat.register(model)
    chat.say("one two three " * 100)
    chat.embed(model)
    assert chat.chunks()["m1"] > 1
    chat.edit("m1", "short now")
    chat.embed(model)
    assert chat.chunks() == {"m1": 1}
    assert chat.likeness(model, "m1", "short now") == pytest.approx(1, abs=1e-3)


def test_passages_have_the_passage_prefix(chat: Chat, tmp_path: Path) -> None:
    source = write_encoder(tmp_path / "prefixed")
    (source / "config_sentence_transformers.json").write_text(
        '{"prompts": {"query": "query: ", "passage": "passage: "}}'
    )
    info = installer.install(str(source), tmp_path / "models", precision="fp32")
    model = Model.load(info.directory)
    assert model.passage_prefix == "passage: "
    chat.register(model)
    chat.say("the proxy is down")
    chat.embed(model)
    assert chat.likeness(model, "m1", "the proxy is down") == pytest.approx(1, abs=1e-3)  # chunks() adds it
    plain = model.embed_texts(["the proxy is down"], query=True)[0]
    ((cosine,),) = chat.rows("SELECT 1 - (embedding <=> %s::halfvec) FROM embeddings", str(plain.tolist()))
    assert cosine < 0.999, "a query's prefix is another"


def test_texts_without_a_token_leave_no_row_behind(chat: Chat, model: WatchedModel) -> None:
    chat.register(model)
    chat.say("  \n ", "\u200b", "words")
    chat.embed(model)
    assert chat.queued() == {} and chat.chunks() == {"m3": 1}
    chat.edit("m3", "\u00a0 ")
    chat.embed(model)
    assert chat.queued() == {} and chat.chunks() == {}, "what m3 said is gone, and so is its vector"


def test_a_text_emptied_or_deleted_before_its_turn_leaves_no_row_behind(chat: Chat, model: WatchedModel) -> None:
    chat.register(model)
    chat.say("first", "second", "third")
    chat.edit("m1", "")
    chat.delete("m2")
    chat.execute("DELETE FROM messages WHERE msg_id = 'm3'")
    chat.embed(model)
    assert chat.queued() == {} and chat.chunks() == {} and model.runs == 0


def test_a_round_is_bounded_in_tokens_too(chat: Chat, model: WatchedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "ROUND_TOKENS_FIRST", 300)
    chat.register(model)
    chat.say(*(f"{number} one two three " * 40 for number in range(10)))
    at_work = chat.worker(model)
    assert at_work.round() == 10
    assert 0 < len(chat.chunks()) < 10, "what a claim holds beyond it is left to the next round"
    assert len(chat.queued()) == 10 - len(chat.chunks())
    while at_work.round():
        pass
    assert len(chat.chunks()) == 10 and chat.queued() == {}


def test_the_newest_come_first(chat: Chat, model: WatchedModel) -> None:
    chat.say(*(f"old {number}" for number in range(6)))
    chat.register(model)
    at_work = chat.worker(model, claim=2)
    assert at_work.maintain(idle=True), "the archive is queued"
    chat.say("just said", first=7)
    at_work.round()
    assert set(chat.chunks()) == {"m7", "m6"}


def test_stop_returns_the_claims(chat: Chat, tiny_model_dir: Path) -> None:
    stop = threading.Event()
    runs: list[Sequence[Chunk]] = []

    def before(chunks: Sequence[Chunk]) -> None:
        runs.append(chunks)
        stop.set()

    model = WatchedModel(Model.load(tiny_model_dir), before)
    chat.register(model)
    chat.say(*(f"{number} one two three four" for number in range(50)))
    with pytest.raises(Stopped):
        chat.worker(model, stop=stop, token_budget=64).round()
    assert len(runs) == 1 and chat.chunks() == {} and len(chat.queued()) == 50


def test_statistics_count_queued_and_parked_messages(chat: Chat, model: WatchedModel) -> None:
    chat.register(model)
    chat.say(*TEXTS)
    chat.execute("UPDATE embedding_queue SET not_before = 'infinity', attempts = 5 WHERE msg_id = 'm2'")
    with chat.connection() as connection:
        counted = statistics(connection, Scope())
        assert (counted.queued, counted.parked) == (3, 1)
        assert coverage(connection, Scope()).without_vector == 3
    tally = WorkerStats()
    at_work = chat.worker(model, tally)
    at_work.round()
    at_work.maintain(idle=True)
    assert tally.queued == 0
    with chat.connection() as connection:
        counted = statistics(connection, Scope())
        assert (counted.queued, counted.parked, counted.models[0].messages) == (1, 1, 2)
        assert coverage(connection, Scope()).without_vector == 1


def test_idle_leader_counts_the_queue_of_busy_workers(chat: Chat, model: WatchedModel) -> None:
    stored = chat.register(model)
    chat.say("the index is built with the first one")
    chat.embed(model)
    chat.say(*TEXTS, first=2)
    tally, stop, wake = WorkerStats(), threading.Event(), threading.Event()
    worker = chat.worker(model, tally, stop=stop)
    leader = threading.Thread(target=take_turns, args=([worker], wake, 600.0, stop), daemon=True)
    try:
        with chat.connection() as other, other.transaction():
            assert len(queue.claim(other, stored.model_id, 10)) == 3
            leader.start()
            until(lambda: tally.queued == 3, 30.0, "the count of what another worker has claimed")
            other.execute("DELETE FROM embedding_queue")
        until(lambda: tally.queued == 0, 30.0, "a count long before the next look at an idle queue")
    finally:
        stop.set()
        wake.set()
        leader.join(30.0)
    assert not leader.is_alive()
