"""The MCP server as a resource server: which of the issuer's access tokens it takes, and what it tells clients."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from mcp.server.auth.provider import AccessToken
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from vkteams_daemon.access import Access
from vkteams_daemon.errors import ConfigError
from vkteams_daemon.mcp import http, serve
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.issuer_tokens import IssuerTokens, open_issuer_tokens
from vkteams_daemon.mcp.server import Server
from vkteams_daemon.mcp.tokens import Tokens
from vkteams_daemon.options import Config, Daemon, Mcp, Oidc
from vkteams_daemon.serving import issuer as issuer_module
from vkteams_daemon.serving.audit import Audit
from vkteams_daemon.serving.issuer import Issuer
from vkteams_daemon.serving.questions import Questions
from vkteams_daemon.serving.refusals import Refusals
from vkteams_daemon.system.redaction import Secrets

ISSUER = "https://sso.corp.example"
URL = "https://archive.corp.example/mcp"
QUESTIONS: Any = Questions(lambda: pytest.fail("nothing is asked"), 1)
KEY, NEW_KEY = (ECKey.generate_key("P-256", {"kid": name}) for name in ("one", "two"))


def _issuer(**options: Any) -> Issuer:
    made = Issuer(Oidc(issuer=ISSUER, **options))
    made._metadata = (time.monotonic(), {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys"})
    made._keys = (time.monotonic(), KeySet([KEY]))
    return made


def _token(key: ECKey = KEY, alg: str = "ES256", **changed: Any) -> str:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": URL, "exp": now + 300, "iat": now, "sub": "1", "client_id": "claude",
              "email": "P.Petrov@corp.example", "email_verified": True}  # fmt: skip
    said = {name: value for name, value in (claims | changed).items() if value is not ...}
    return jwt.encode({"alg": alg, "kid": key.kid, "typ": "at+jwt"}, said, key, algorithms=[alg])


def _verified(token: str, issuer: Issuer | None = None, file: Tokens | None = None) -> AccessToken | None:
    return anyio.run(IssuerTokens(issuer or _issuer(), URL, file).verify_token, token)


def test_a_token_of_the_issuer_sees_what_its_person_may_see() -> None:
    verified = _verified(_token(aud=["another", URL]))
    assert verified is not None and verified.claims is not None
    assert verified.claims["access"] == Access("p.petrov@corp.example", user="p.petrov@corp.example")
    assert (verified.client_id, verified.subject, verified.claims["iss"]) == ("claude", "1", ISSUER)
    assert verified.token == "p.petrov@corp.example", "nothing beyond the verifier has the token"


def test_the_page_and_mcp_are_one_server(tmp_path: Path) -> None:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("the page")(scope, receive, send)

    config = Config(mcp=Mcp(url=URL), oidc=Oidc(issuer=ISSUER), daemon=Daemon(state_dir=str(tmp_path)))
    ended: list[bool] = []
    part = serve.beside(config, "127.0.0.1", URL, Audit(Secrets(), "http"), lambda: ended.append(True), QUESTIONS)
    with TestClient(part.over(page), base_url="https://archive.corp.example") as client:
        assert client.get("/").text == client.get("/mcpx").text == "the page"
        assert client.get("/.well-known/oauth-protected-resource/mcp").json()["resource"] == URL
        assert client.post("/mcp", json={}).status_code == 401
        assert ended == []
    assert ended, "the page would go on without the sessions of MCP"
    for close in part.close:
        close()
    with pytest.raises(ConfigError, match="needs to know its clients"):
        serve.beside(Config(), "127.0.0.1", URL, Audit(Secrets(), "http"), lambda: None, QUESTIONS)


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": 1}, {"exp": ...}, {"nbf": int(time.time()) + 9999}, {"aud": "page"}, {"aud": ["page"]}, {"aud": ...},
        {"aud": f"{URL}/"}, {"iss": "https://evil.example"}, {"iss": ...}, {"iat": ...}, {"email": ...},
        {"email_verified": False}, {"email_verified": "true"},
    ],
)  # fmt: skip
def test_a_token_for_another_or_of_another_or_of_another_time_is_refused(changed: dict[str, Any]) -> None:
    assert _verified(_token(**changed)) is None


def test_a_token_of_no_known_key_or_without_a_signature_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(issuer_module, "_get", lambda url, *_: asked.append(url))
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    claims = _token().split(".")[1]
    same_name = ECKey.generate_key("P-256", {"kid": "one"})
    for token in (_token(NEW_KEY), _token(same_name), f"{unsigned}.{claims}.", "a.b.c", "", "a token of a file"):
        assert _verified(token) is None
    assert asked == [], "whoever sends tokens does not make the server ask for keys again and again"


def test_keys_that_the_issuer_has_changed_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = _issuer()
    issuer._keys = (time.monotonic() - issuer_module._KEYS_AGAIN - 1, KeySet([KEY]))
    monkeypatch.setattr(issuer_module, "_get", lambda url, *_: KeySet([NEW_KEY]).as_dict(private=False))
    assert _verified(_token(NEW_KEY), issuer) is not None
    assert _verified(_token(KEY), issuer) is None, "the old key counts no longer"


def test_options_map_people_and_the_file_works_beside_the_issuer(tmp_path: Path) -> None:
    users = tmp_path / "users.toml"
    users.write_text('[users]\n"p.petrov@corp.example" = "123456"\n')
    verified = _verified(_token(), _issuer(users_file=str(users)))
    assert verified is not None and verified.token == "123456"
    tokens = IssuerTokens(_issuer(), URL, None, frozenset({"p.petrov@corp.example"}))
    boss = anyio.run(tokens.verify_token, _token())
    assert boss is not None and boss.claims is not None and boss.claims["access"].administrator
    file = tmp_path / "tokens.toml"
    file.write_text('[tokens.bot]\ntoken = "a.dotted.token-of-the-file"\n')
    file.chmod(0o600)
    known = _verified("a.dotted.token-of-the-file", file=Tokens(file))
    assert known is not None and known.client_id == "bot"
    with pytest.raises(ConfigError, match=r"mcp\.url: .*oidc\.issuer is not set"):
        open_issuer_tokens(Config(mcp=Mcp(url=URL)), None)


def test_a_client_without_a_token_is_led_to_the_issuer_and_one_with_it_is_served() -> None:
    config = Config(mcp=Mcp(url=URL), oidc=Oidc(issuer=ISSUER))
    audit = Audit(Secrets(), "http")
    server = Server(
        Reader(config, Access("x")), audit, IssuerTokens(_issuer(), URL, None), URL, issuer=(ISSUER, URL)
    )  # fmt: skip
    hello = {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }  # fmt: skip
    accepted = {"accept": "application/json, text/event-stream"}
    with TestClient(
        http.make_app(server, "127.0.0.1", config, Refusals(audit)), base_url="https://archive.corp.example"
    ) as client:
        told = client.get("/.well-known/oauth-protected-resource/mcp").json()
        assert (told["resource"], told["authorization_servers"]) == (URL, [ISSUER])
        for headers in ({}, {"authorization": f"Bearer {_token(exp=1)}"}):
            refused = client.post("/mcp", json=hello, headers=accepted | headers)
            assert refused.status_code == 401
            where = 'resource_metadata="https://archive.corp.example/.well-known/oauth-protected-resource/mcp"'
            assert where in refused.headers["www-authenticate"]
        served = client.post("/mcp", json=hello, headers=accepted | {"authorization": f"Bearer {_token()}"})
        assert served.status_code == 200, served.text
        assert json.loads(served.text.partition("data: ")[2])["result"]["serverInfo"]["name"] == "vkteams"
