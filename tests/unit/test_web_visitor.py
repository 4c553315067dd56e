"""Who is asking: which headers are believed, from whom, and when the page refuses to start."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import pytest
from starlette.requests import Request

from vkteams_daemon.errors import ConfigError
from vkteams_daemon.options import Oidc, Web
from vkteams_daemon.web.session import Session, Sessions, new_session
from vkteams_daemon.web.visitor import Admission, Visitor

PROXY = Web(trusted_proxies=("10.1.0.0/16", "fd00::1"), administrators=("root@corp.example",))
OPEN = Web(open_on_loopback=True)


def _visitor(options: Web, address: str, *headers: tuple[str, str]) -> Visitor | None:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return Admission(options).visitor(Request({"type": "http", "client": (address, 1), "headers": raw}), None)


def _user(name: str = "p@corp.example") -> tuple[str, str]:
    return "X-Forwarded-User", name


@pytest.mark.parametrize("address", ["10.1.2.3", "fd00::1", "::ffff:10.1.2.3"])
def test_a_trusted_proxy_names_the_person(address: str) -> None:
    visitor = _visitor(PROXY, address, _user())
    assert visitor and visitor.access.user == "p@corp.example" and visitor.access.restricted
    assert not visitor.administrator
    administrator = _visitor(PROXY, address, _user("root@corp.example"))
    assert administrator and administrator.administrator and administrator.access.restricted


@pytest.mark.parametrize("address", ["10.2.0.1", "127.0.0.1", "::1", "fd00::2", "not an address"])
def test_nobody_else_does(address: str) -> None:
    assert _visitor(PROXY, address, _user()) is None
    assert _visitor(PROXY, address, _user("root@corp.example"), ("X-Forwarded-For", "10.1.0.1")) is None


@pytest.mark.parametrize("headers", [[], [_user("")], [_user(" ")], [_user("a"), _user("b")], [_user("a,b")],
                                     [_user("a\tb")], [_user("x" * 300)], [("X-User", "p@corp.example")]])  # fmt: skip
def test_a_header_that_names_nobody_admits_nobody(headers: list[tuple[str, str]]) -> None:
    assert _visitor(PROXY, "10.1.0.1", *headers) is None


def test_another_header_may_be_named() -> None:
    options = Web(trusted_proxies=("10.1.0.1",), user_header="Remote-User")
    visitor = _visitor(options, "10.1.0.1", ("Remote-User", "p@corp.example"))
    assert visitor and visitor.access.user == "p@corp.example"
    assert _visitor(options, "10.1.0.1", _user()) is None


def test_an_open_page_admits_this_machine_alone() -> None:
    visitor = _visitor(OPEN, "127.0.0.1")
    assert visitor and visitor.administrator and not visitor.access.restricted
    assert _visitor(OPEN, "::1")
    assert _visitor(OPEN, "10.1.0.1") is None


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "Via", "X-Forwarded-User", "X-Real-IP"])
def test_an_open_page_does_not_take_the_visitors_of_a_proxy_for_its_own(name: str) -> None:
    assert _visitor(OPEN, "127.0.0.1", (name, "192.0.2.1")) is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (Web(), "nobody could sign in to the page"),
        (Web(trusted_proxies=("proxy.corp.example",)), "is no address and no network"),
        (Web(trusted_proxies=("127.0.0.1",), open_on_loopback=True), "would be everybody"),
        (Web(trusted_proxies=("::/0",), open_on_loopback=True), "would be everybody"),
    ],
)
def test_a_page_without_a_way_to_sign_in_is_refused(options: Web, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Admission(options)


def test_a_session_that_this_server_has_not_signed_is_none() -> None:
    sessions = Sessions(b"k" * 32)
    session = Session(new_session().id, "ru", "dark")
    cookie = sessions.write(session)
    assert sessions.read(cookie) == session
    text, _, signature = cookie.rpartition(".")
    for forged in ("", ".", text, f"{text}x.{signature}", f"{text}.{signature[:-1]}", "я" * 20, "x" * 2000, None):
        assert sessions.read(forged) is None
    assert Sessions(b"x" * 32).read(cookie) is None


@pytest.mark.parametrize("fields", [{"id": "x"}, {**asdict(Session("x")), "later": 1}, {}])
def test_a_session_of_another_version_is_none(fields: dict[str, Any]) -> None:
    """Otherwise every page would fail for a browser that has been here before an upgrade."""
    sessions = Sessions(b"k" * 32)
    assert sessions.read(sessions.seal("session", fields)) is None


def test_a_form_belongs_to_one_session() -> None:
    sessions = Sessions(b"k" * 32)
    one, other = new_session(), new_session()
    assert sessions.is_form_token(one, sessions.form_token(one))
    assert not sessions.is_form_token(other, sessions.form_token(one))
    assert not sessions.is_form_token(one, "") and not sessions.is_form_token(one, "я")
    assert sessions.form_token(one) not in sessions.write(one)


def test_a_session_counts_only_where_the_page_signs_people_in() -> None:
    oidc = Oidc(issuer="https://sso.corp.example", client_id="page", admins=("boss@corp.example",))
    until = int(time.time()) + 60
    request = Request({"type": "http", "client": ("192.0.2.1", 1), "headers": []})

    def visitor(session: Session | None, options: Oidc = oidc) -> Visitor | None:
        return Admission(PROXY, options).visitor(request, session)

    signed_in = visitor(Session("id", user="p@corp.example", until=until))
    assert signed_in and signed_in.access.user == "p@corp.example" and not signed_in.administrator
    boss = visitor(Session("id", user="boss@corp.example", until=until))
    assert boss and boss.administrator and boss.access.restricted
    assert visitor(Session("id", user="p@corp.example", until=1)) is None
    assert visitor(Session("id", until=until)) is None and visitor(None) is None
    assert visitor(Session("id", user="p@corp.example", until=until), Oidc()) is None
