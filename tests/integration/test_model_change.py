"""A change of model: new vectors beside the old, the switch of search when they are complete, the old ones deleted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.harness.embedding import Chat, WatchedModel
from tests.harness.models import NAME, write_encoder
from vkteams_daemon.config import Config
from vkteams_daemon.embedding.install import installer
from vkteams_daemon.embedding.model import Chunk, Model
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.options import Embedding
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.store import embedding_models, vector_index

TEXTS = ("the proxy is down again", "the printer is broken", "lunch at noon")


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """Two models of different width, installed."""
    directory = tmp_path / "models"
    installer.install(str(write_encoder(tmp_path / NAME)), directory, precision="fp32")
    installer.install(str(write_encoder(tmp_path / "wider", seed=2, hidden=48)), directory, precision="fp32")
    return directory


@pytest.fixture
def old(models_dir: Path) -> Model:
    return Model.load(models_dir / NAME)


@pytest.fixture
def new(models_dir: Path) -> Model:
    return Model.load(models_dir / "wider")


def states(chat: Chat) -> dict[str, str]:
    return dict(chat.rows("SELECT name, state FROM embedding_models"))  # type: ignore[arg-type]


def vectors(chat: Chat) -> dict[str, int]:
    """{model: number of vectors}."""
    return dict(
        chat.rows(  # type: ignore[arg-type]
            "SELECT name, count(e.msg_id)::int FROM embedding_models LEFT JOIN embeddings e USING (model_id)"
            " GROUP BY name"
        )
    )


def indexes(chat: Chat) -> list[str]:
    return [name for (name,) in chat.rows("SELECT indexname FROM pg_indexes WHERE indexname LIKE '%hnsw%' ORDER BY 1")]


def test_the_switch_comes_when_the_new_vectors_are_complete(
    chat: Chat, models_dir: Path, old: Model, new: Model
) -> None:
    chat.say(*TEXTS)
    chat.embed(old)
    config = Config(database=DatabaseOptions(url=chat.url), embedding=Embedding(models_dir=str(models_dir)))
    with Archive(config) as archive:

        def first_hit() -> str:
            return archive.search("the proxy is down again", mode="semantic").hits[0].msg_id

        assert first_hit() == "m1"
        other_host = chat.worker(old)
        while other_host.turn():
            pass
        worker = chat.worker(new, claim=1)
        assert worker.round() == 0 and worker.maintain(idle=True)
        assert states(chat) == {NAME: "active", "wider": "building"}
        for done in range(1, 4):
            assert worker.round() == 1
            assert vectors(chat) == {NAME: 3, "wider": done}
            assert states(chat)[NAME] == "active" and first_hit() == "m1", "search goes on with the old one"
        chat.say("said during the change", first=4)
        while other_host.turn():  # it was started before, and still has the old model
            pass
        assert vectors(chat) == {NAME: 4, "wider": 3}
        assert worker.round() == 1 and worker.round() == 0
        assert not worker.maintain(idle=True)
        assert states(chat) == {NAME: "retired", "wider": "active"}
        assert vectors(chat) == {NAME: 0, "wider": 4}
        assert indexes(chat) == ["embeddings_hnsw_2_message"]
        assert first_hit() == "m1", "an open archive changes to the new model"
    chat.say("said afterwards", first=5)
    assert chat.rows("SELECT model_id FROM embedding_queue") == [(2,)]


def test_a_text_that_waits_for_its_next_attempt_puts_the_switch_off_and_a_parked_one_does_not(
    chat: Chat, old: Model, new: Model
) -> None:
    chat.say("healthy", "poison poison")
    chat.embed(old)
    poison = new.chunks("poison poison")[0]

    def before(chunks: Sequence[Chunk]) -> None:
        if poison in chunks:
            raise RuntimeError("bad tensor")

    worker = chat.worker(WatchedModel(new, before), max_attempts=2)  # type: ignore[arg-type]
    while worker.round() or worker.maintain(idle=True):
        pass
    assert states(chat)["wider"] == "building", "one text is to be tried again"
    chat.execute("UPDATE embedding_queue SET not_before = '-infinity' WHERE attempts > 0")
    while worker.round() or worker.maintain(idle=True):
        pass
    assert states(chat) == {NAME: "retired", "wider": "active"}, "it is parked, and the change is complete"
    assert vectors(chat) == {NAME: 0, "wider": 1}


def test_messages_that_keep_coming_do_not_put_the_switch_off(chat: Chat, old: Model, new: Model) -> None:
    chat.say(*TEXTS)
    chat.embed(old)
    worker = chat.worker(new)
    assert worker.maintain(idle=False) and worker.round() == 3
    chat.say("said in the moment of the switch", first=4)
    worker.maintain(idle=False)
    assert states(chat) == {NAME: "retired", "wider": "active"}
    assert chat.queued() == {"m4": 0}, "it waits as it does for any active model"


def test_a_change_begun_by_a_worker_that_died_is_completed_by_the_next(chat: Chat, old: Model, new: Model) -> None:
    chat.say(*TEXTS)
    chat.embed(old)
    first = chat.worker(new, claim=1)
    first.maintain(idle=True)
    first.round()
    del first
    chat.embed(new)
    assert states(chat) == {NAME: "retired", "wider": "active"}
    assert vectors(chat) == {NAME: 0, "wider": 3}


def test_return_to_the_old_model_before_the_switch_drops_the_half_built_one(chat: Chat, old: Model, new: Model) -> None:
    chat.say(*TEXTS)
    chat.embed(old)
    worker = chat.worker(new, claim=1)
    worker.maintain(idle=True)
    worker.round()
    chat.embed(old)
    assert states(chat) == {NAME: "active", "wider": "retired"} and vectors(chat) == {NAME: 3, "wider": 0}
    assert chat.queued() == {}
    assert chat.embed(new).embedded == 3
    assert states(chat) == {NAME: "retired", "wider": "active"}


def test_a_third_model_takes_the_place_of_a_half_built_one(
    chat: Chat, models_dir: Path, tmp_path: Path, old: Model, new: Model
) -> None:
    chat.say(*TEXTS)
    chat.embed(old)
    worker = chat.worker(new, claim=1)
    worker.maintain(idle=True)
    worker.round()
    installer.install(str(write_encoder(tmp_path / "third", seed=3, hidden=48)), models_dir, precision="fp32")
    chat.embed(Model.load(models_dir / "third"))
    assert states(chat) == {NAME: "retired", "wider": "retired", "third": "active"}
    assert vectors(chat) == {NAME: 0, "wider": 0, "third": 3}
    assert chat.rows("SELECT count(*) FROM embedding_queue") == [(0,)]


def test_retired_model_chosen_again_is_built_anew(chat: Chat, old: Model, new: Model) -> None:
    chat.say(*TEXTS)
    chat.embed(old)
    chat.embed(new)
    chat.embed(old)
    assert states(chat) == {NAME: "active", "wider": "retired"}
    assert vectors(chat) == {NAME: 3, "wider": 0}
    assert indexes(chat) == ["embeddings_hnsw_1_message"]


def test_vectors_of_a_retired_model_are_deleted_batch_by_batch(chat: Chat, old: Model) -> None:
    chat.say(*(f"message {n}" for n in range(10)))
    chat.embed(old)
    chat.execute("UPDATE embedding_models SET state = 'retired'")
    with chat.connection() as connection:
        assert embedding_models.delete_retired(connection, batch=3) == 10
    assert chat.chunks() == {} and indexes(chat) == []


def test_model_chosen_again_while_it_is_deleted_keeps_its_remaining_vectors(
    chat: Chat, old: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat.say(*(f"message {n}" for n in range(10)))
    chat.embed(old)
    chat.execute("UPDATE embedding_models SET state = 'retired'")
    with chat.connection() as connection:
        lock = embedding_models._drop_retired_index
        monkeypatch.setattr(
            embedding_models, "_drop_retired_index", lambda *where: None if chat.register(old) else lock(*where)
        )
        assert embedding_models.delete_retired(connection, batch=3) == 0
    assert len(chat.chunks()) == 10 and indexes(chat) == ["embeddings_hnsw_1_message"]
    assert states(chat) == {NAME: "active"}


def test_registering_a_model_does_not_wait_for_the_build_of_an_index(chat: Chat, old: Model, new: Model) -> None:
    chat.say(*TEXTS)
    chat.embed(old)
    with chat.connection() as busy:
        busy.execute(f"SELECT pg_advisory_lock({vector_index.INDEX_LOCK})".encode())
        assert chat.register(new).state == "building"


def test_vectors_of_a_retired_model_are_deleted_while_an_index_is_built(chat: Chat, old: Model) -> None:
    chat.say(*TEXTS)
    chat.embed(old)
    chat.execute("UPDATE embedding_models SET state = 'retired'")
    with chat.connection() as busy, chat.connection() as connection:
        busy.execute(f"SELECT pg_advisory_lock({vector_index.INDEX_LOCK})".encode())
        assert embedding_models.delete_retired(connection) == 3
        assert indexes(chat) == ["embeddings_hnsw_1_message"], "for the next time"
        busy.execute(f"SELECT pg_advisory_unlock({vector_index.INDEX_LOCK})".encode())
        embedding_models.delete_retired(connection)
    assert indexes(chat) == []


def test_an_interrupted_build_of_the_index_is_repeated(chat: Chat, old: Model) -> None:
    chat.say(*TEXTS)
    chat.embed(old)
    chat.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'embeddings_hnsw_1_message'::regclass")
    with chat.connection() as connection:
        assert not vector_index.has_index(connection, 1)
    chat.embed(old)
    with chat.connection() as connection:
        assert vector_index.has_index(connection, 1)


def test_one_worker_builds_the_index_and_the_others_go_on(chat: Chat, old: Model) -> None:
    stored = chat.register(old)
    with chat.connection() as busy, chat.connection() as other:
        busy.execute(f"SELECT pg_advisory_lock({vector_index.INDEX_LOCK})".encode())
        assert not vector_index.ensure_index(other, stored.model_id, stored.dims)
        busy.execute(f"SELECT pg_advisory_unlock({vector_index.INDEX_LOCK})".encode())
        assert vector_index.ensure_index(other, stored.model_id, stored.dims)
        assert vector_index.ensure_index(other, stored.model_id, stored.dims), "it is there now"
