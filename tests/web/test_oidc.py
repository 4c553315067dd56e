"""Signing in by OpenID Connect, with a real provider on loopback. `make oidc-test` brings it and runs these tests."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import anyio.to_thread
import pytest
import requests
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

from tests.harness.mcp import HttpServer, Office, structured
from tests.harness.waiting import until
from tests.harness.web import Page, free_port

pytestmark = pytest.mark.skipif(os.environ.get("OIDC_TEST") != "1", reason="make oidc-test runs it")

PROVIDER = Path(__file__).parent / "oidc"
OPS = "681869378@chat.agent"


class Issuer:
    """The provider as a process of its own."""

    def __init__(self, directory: Path, page_port: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.said = directory / "provider"
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [PROVIDER / "node_modules/.bin/node", PROVIDER / "provider.mjs", str(self.port),
                 f"http://127.0.0.1:{page_port}/signed-in"],
                stdout=said, stderr=said,
            )  # fmt: skip
        until(lambda: "the provider is at" in self.said.read_text(), 30, "the provider's word where it is")

    def end(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def signed(page_url: str, tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[tuple[Page, Issuer]]:
    """The page that this issuer signs people in to."""
    directory = tmp_path_factory.mktemp("oidc")
    port = free_port()
    issuer = Issuer(directory, port)
    office = Office(directory, page_url, models_dir)
    (directory / "state").mkdir()
    secret = directory / "secret"
    secret.write_text("a secret of the page for tests\n")
    secret.chmod(0o600)
    users = directory / "users.toml"
    users.write_text('[users]\n"boss@corp.example" = "s.zhukov@corp.example"\n')
    users.chmod(0o600)
    office.configure(
        web={"url": f"http://127.0.0.1:{port}"},
        mcp={"url": f"http://127.0.0.1:{port}/mcp"},
        oidc={"issuer": issuer.url, "client_id": "page", "client_secret_file": str(secret),
              "users_file": str(users), "admins": ["s.zhukov@corp.example"]},
    )  # fmt: skip
    page = Page(office, f"127.0.0.1:{port}", "--mcp")
    yield page, issuer
    page.end()
    issuer.end()


class Person:
    """A browser without a face: it follows redirects one by one and fills in the issuer's forms."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.session = requests.Session()
        self.session.headers["Accept-Language"] = "en"

    def get(self, path: str) -> requests.Response:
        """A page, without following where it leads."""
        return self.session.get(f"{self.page.url.rstrip('/')}{path}", allow_redirects=False, timeout=30)

    def sign_in(self, name: str, path: str = "/?q=OPS-142") -> requests.Response:
        """Open an address, sign in at the issuer, and return where that leads in the end."""
        answer = self.come_back(name, path)
        while answer.is_redirect:
            answer = self._follow(answer)
        return answer

    def come_back(self, name: str, path: str = "/") -> requests.Response:
        """Sign in at the issuer, up to its redirect to our page, which is not followed."""
        answer = self.get(path)
        while not answer.headers.get("location", "").partition("?")[0].endswith("/signed-in"):
            answer = self._next(answer, name)
        return answer

    def until_back(self, url: str, name: str, back: str) -> str:
        """Open an address of the issuer and sign in there; the address that it leads back to."""
        answer = self.session.get(url, allow_redirects=False, timeout=30)
        while not answer.headers.get("location", "").startswith(back):
            answer = self._next(answer, name)
        return str(answer.headers["location"])

    def _next(self, answer: requests.Response, name: str) -> requests.Response:
        """Follow the issuer's redirect, or fill in its form as this person."""
        if answer.is_redirect:
            return self._follow(answer)
        action = re.search(r'<form[^>]* action="([^"]+)"', answer.text)
        prompt = re.search(r'name="prompt" value="(\w+)"', answer.text)
        assert action and prompt, answer.text[:2000]
        form = {"prompt": prompt[1], "login": name, "password": "any"}
        return self.session.post(action[1], form, allow_redirects=False, timeout=30)

    def _follow(self, answer: requests.Response) -> requests.Response:
        address = requests.compat.urljoin(answer.url, answer.headers["location"])  # type: ignore[attr-defined]
        return self.session.get(address, allow_redirects=False, timeout=30)


def test_a_person_signs_in_and_is_where_they_wanted_to_be(signed: tuple[Page, Issuer]) -> None:
    page, _ = signed
    person = Person(page)
    answer = person.sign_in("P.Petrov")
    assert answer.status_code == 200 and urlsplit(answer.url).query == "q=OPS-142"
    assert "<mark>OPS-142</mark>" in answer.text and "p.petrov@corp.example" in answer.text
    assert person.get(f"/c/{OPS}").status_code == 200
    assert person.get("/health").status_code == 404
    cookie = person.session.cookies.get("vkteams", domain="127.0.0.1")
    assert cookie and "p.petrov" not in cookie, "it is not for reading"


def test_somebody_who_is_in_no_chat_sees_none(signed: tuple[Page, Issuer]) -> None:
    person = Person(signed[0])
    assert person.sign_in("stranger", "/").status_code == 200
    assert person.get(f"/c/{OPS}").status_code == 404


def test_a_mapping_and_the_administrators(signed: tuple[Page, Issuer]) -> None:
    person = Person(signed[0])
    answer = person.sign_in("boss", "/health")
    assert answer.status_code == 200 and "s.zhukov@corp.example" in answer.text


def test_an_address_that_is_not_verified_is_refused(signed: tuple[Page, Issuer]) -> None:
    answer = Person(signed[0]).sign_in("unverified")
    assert answer.status_code == 403 and "has not verified this address" in answer.text


def test_without_a_sign_in_every_page_leads_to_it(signed: tuple[Page, Issuer]) -> None:
    person = Person(signed[0])
    for path in ("/", f"/c/{OPS}", "/health"):
        answer = person.get(path)
        assert answer.status_code == 303 and answer.headers["location"].startswith("/sign-in?back=%2F")
    answer = person.get("/sign-in?back=//evil.example")
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"] and asked["response_type"] == ["code"]
    assert {"state", "nonce", "code_challenge"} <= set(asked)


def test_an_answer_that_was_not_asked_for_signs_nobody_in(signed: tuple[Page, Issuer]) -> None:
    page, _ = signed
    victim, thief = Person(page), Person(page)
    back = thief.come_back("p.petrov").headers["location"]
    code = urlsplit(back)
    # The code of another browser, with and without a sign-in of one's own; a state of one's own with another's code.
    victim.get("/sign-in")
    tampered = urlencode({**{name: values[0] for name, values in parse_qs(code.query).items()}, "state": "x"})
    iss = urlencode(
        {**{name: values[0] for name, values in parse_qs(code.query).items()}, "iss": "https://evil.example"}
    )
    for person, query in ((victim, code.query), (Person(page), code.query), (thief, tampered), (thief, iss)):
        answer = person.get(f"/signed-in?{query}")
        assert answer.status_code == 403, answer.text
        assert person.get("/").status_code == 303
    assert thief.get(f"/signed-in?{code.query}").status_code == 303, "the browser that began it"
    again = Person(page)
    again.session.cookies.update(thief.session.cookies)
    assert again.get(f"/signed-in?{code.query}").status_code == 403, "a code counts once"


def test_a_forged_cookie_signs_nobody_in(signed: tuple[Page, Issuer]) -> None:
    import base64

    person = Person(signed[0])
    fields = {"id": "x", "language": None, "theme": None, "user": "p.petrov@corp.example", "until": 10**12}
    text = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")
    person.session.cookies.set("vkteams", f"{text}.{'0' * 64}")
    assert person.get("/").status_code == 303


def test_one_signs_out_by_a_form_of_the_page_alone(signed: tuple[Page, Issuer]) -> None:
    person = Person(signed[0])
    home = person.sign_in("p.petrov", "/")
    address = urlunsplit(urlsplit(home.url)._replace(path="/sign-out", query=""))
    assert person.session.post(address, {"token": "x"}, timeout=30).status_code == 403
    assert person.get("/").status_code == 200
    token = re.search(r'name="token" value="(\w+)"', home.text)
    assert token
    answer = person.session.post(address, {"token": token[1]}, timeout=30)
    assert answer.status_code == 200 and "You have signed out" in answer.text
    assert person.get("/").status_code == 303


def test_who_signs_in_is_audited_and_no_secret_is_told(signed: tuple[Page, Issuer]) -> None:
    page, _ = signed
    Person(page).sign_in("p.petrov")
    said = page.office.said.read_text()
    assert '"who": "p.petrov@corp.example", "client": null, "call": "sign-in"' in said
    assert "a secret of the page" not in said and "code=" not in said


class Storage:
    """What the official MCP client keeps of a sign-in."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@pytest.fixture(scope="module")
def mcp_server(
    signed: tuple[Page, Issuer], page_url: str, tmp_path_factory: pytest.TempPathFactory, models_dir: Path
) -> Iterator[HttpServer]:
    """The MCP server that takes the issuer's tokens."""
    port = free_port()
    office = Office(tmp_path_factory.mktemp("mcp"), page_url, models_dir)
    office.configure(mcp={"url": f"http://127.0.0.1:{port}/mcp"}, oidc={"issuer": signed[1].url})
    server = HttpServer(office, f"127.0.0.1:{port}")
    yield server
    server.end()


def _ask_as(url: str, name: str, storage: Storage) -> dict[str, Any]:
    """The chats that the official client is told after its person has signed in; it finds the issuer by itself."""
    back = "http://127.0.0.1:9/callback"
    came: list[str] = []

    async def redirect(url: str) -> None:
        person = Person.__new__(Person)
        person.session = requests.Session()
        came.append(await anyio.to_thread.run_sync(person.until_back, url, name, back))

    async def callback() -> AuthorizationCodeResult:
        query = parse_qs(urlsplit(came[-1]).query)
        return AuthorizationCodeResult(
            code=query["code"][0], state=query["state"][0], iss=query.get("iss", [None])[0]
        )  # fmt: skip

    metadata = OAuthClientMetadata(
        redirect_uris=[back], client_name="a client", scope="openid email",  # type: ignore[list-item]
        token_endpoint_auth_method="none",
    )  # fmt: skip

    async def ask() -> dict[str, Any]:
        auth = OAuthClientProvider(url, metadata, storage, redirect, callback)
        async with (
            create_mcp_http_client(auth=auth) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            return structured(await client.call_tool("list_chats", {}))

    return asyncio.run(ask())


def test_the_official_mcp_client_signs_in_by_itself_and_sees_its_persons_chats(mcp_server: HttpServer) -> None:
    storage = Storage()
    chats = [chat["chat_id"] for chat in _ask_as(mcp_server.url, "P.Petrov", storage)["chats"]]
    assert OPS in chats
    assert "p.petrov@corp.example" in {line["who"] for line in mcp_server.office.audit()}
    assert storage.tokens and storage.tokens.access_token not in mcp_server.office.said.read_text()
    assert _ask_as(mcp_server.url, "stranger", Storage())["chats"] == []


def test_a_token_of_the_page_and_an_unverified_person_are_refused_by_mcp(mcp_server: HttpServer) -> None:
    storage = Storage()
    with pytest.raises(BaseException):  # noqa: B017  the client gives up in a group of errors
        _ask_as(mcp_server.url, "unverified", storage)
    assert storage.tokens, "the issuer gave it a token"
    refused = requests.post(
        mcp_server.url, json={}, headers={"Authorization": f"Bearer {storage.tokens.access_token}"}, timeout=30
    )
    assert refused.status_code == 401 and "resource_metadata=" in refused.headers["www-authenticate"]


def test_one_process_serves_the_page_and_mcp(signed: tuple[Page, Issuer]) -> None:
    page, _ = signed
    assert OPS in [chat["chat_id"] for chat in _ask_as(f"{page.url}mcp", "p.petrov", Storage())["chats"]]
    assert Person(page).sign_in("p.petrov").status_code == 200
    said = page.office.said.read_text()
    for line in ('"audit": "mcp", "transport": "http", "who": "p.petrov@corp.example"', '"audit": "web"'):
        assert line in said
