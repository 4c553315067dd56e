"""A question that names no chat: the only chat is taken; otherwise the user is asked if the client can ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from mcp import Client
from mcp.types import ElicitRequestParams, ElicitResult

from tests.harness.mcp import Office, over_stdio, with_client

OPS, THREAD, LUNCH = "681869378@chat.agent", "693938330@chat.agent", "684120415@chat.agent"
QUERY = "сервер OR хинкали OR standby"


class Person:
    """The client's user: their answer, and the questions that they were asked."""

    def __init__(self, **answer: Any) -> None:
        self.answer = ElicitResult(**answer)
        self.asked: list[ElicitRequestParams] = []

    async def __call__(self, context: Any, params: ElicitRequestParams) -> ElicitResult:
        self.asked.append(params)
        return self.answer


def _search(**arguments: Any) -> Callable[[Client], Awaitable[set[str]]]:
    """The chats of the hits."""

    async def search(client: Client) -> set[str]:
        answer = await client.call_tool("search_text", {"query": QUERY, "limit": 100} | arguments)
        assert not answer.is_error, answer.content
        return {hit["chat_id"] for hit in (answer.structured_content or {})["hits"]}

    return search


def _chats(office: Office, mode: str, person: Person | None, **arguments: Any) -> set[str]:
    return with_client(office, _search(**arguments), mode=mode, elicitation_callback=person)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_the_client_is_asked_which_chat(office: Office, mode: str) -> None:
    person = Person(action="accept", content={"chat_id": LUNCH})
    assert over_stdio(office, _search(), mode=mode, elicitation_callback=person) == {LUNCH}
    (request,) = person.asked
    choice = request.requested_schema["properties"]["chat_id"]  # type: ignore[union-attr]
    assert set(choice["enum"]) == {"all", OPS, THREAD, LUNCH, "n.whitfield@corp.example"}
    assert "Эксплуатация и дежурство" in choice["enumNames"]
    assert [line["outcome"] for line in office.audit()][-1] == "ok"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("answer", [{"action": "accept", "content": {"chat_id": "all"}}, {"action": "decline"}])
def test_a_user_who_chooses_no_chat_gets_all(office: Office, mode: str, answer: dict[str, Any]) -> None:
    assert _chats(office, mode, Person(**answer)) >= {OPS, LUNCH}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_user_who_dismisses_the_question_gets_no_answer(office: Office, mode: str) -> None:
    async def search(client: Client) -> str:
        answer = await client.call_tool("search_text", {"query": QUERY})
        assert answer.is_error
        return str(answer.content[0].text)  # type: ignore[union-attr]

    message = with_client(office, search, mode=mode, elicitation_callback=Person(action="cancel"))
    assert message == "the question which chat is meant was dismissed, so nothing was looked for"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_client_without_elicitation_gets_all_chats(office: Office, mode: str) -> None:
    assert _chats(office, mode, None) >= {OPS, LUNCH}


@pytest.mark.parametrize("named", [OPS, "all"])
def test_no_question_is_asked_if_the_chat_is_named(office: Office, named: str) -> None:
    person = Person(action="cancel")
    chat_ids = _chats(office, "auto", person, chat_id=named)
    assert chat_ids == {OPS} if named == OPS else chat_ids >= {OPS, LUNCH}
    assert person.asked == []


def test_no_question_is_asked_before_a_refusal(office: Office) -> None:
    async def ask(client: Client) -> bool:
        return (await client.call_tool("get_context", {"user_id": "a.ivanova@corp.example"})).is_error

    person = Person(action="accept", content={"chat_id": OPS})
    assert with_client(office, ask, elicitation_callback=person)
    assert person.asked == []


def test_the_one_configured_chat_is_taken_with_its_threads(office: Office) -> None:
    office.configure(storage={"chat_ids": [OPS]})
    person = Person(action="cancel")
    assert _chats(office, "auto", person) == {OPS, THREAD}
    assert person.asked == []


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_choice_that_is_no_chat_is_refused(office: Office, mode: str) -> None:
    async def search(client: Client) -> str:
        answer = await client.call_tool("search_text", {"query": QUERY})
        assert answer.is_error
        return str(answer.content[0].text)  # type: ignore[union-attr]

    person = Person(action="accept", content={"chat_id": "nowhere"})
    message = with_client(office, search, mode=mode, elicitation_callback=person)
    assert message.startswith("the archive has no chat nowhere. ")


def test_the_one_configured_chat_may_have_no_message(office: Office) -> None:
    office.configure(storage={"chat_ids": ["1@chat.agent"]})
    assert _chats(office, "auto", None) == set()
