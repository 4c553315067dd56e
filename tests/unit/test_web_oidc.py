"""What the page accepts of an issuer: whose token, for whom, until when; and which options it refuses."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from vkteams_daemon.errors import ConfigError, PermissionRefused
from vkteams_daemon.options import Oidc
from vkteams_daemon.serving.issuer import SignInRefused
from vkteams_daemon.web import attempt_limit
from vkteams_daemon.web.attempt_limit import AttemptLimit
from vkteams_daemon.web.cookies import local_path
from vkteams_daemon.web.oidc import SignIn

ISSUER = "https://sso.corp.example"
KEY = RSAKey.generate_key(2048, {"kid": "one"})
OTHER = RSAKey.generate_key(2048, {"kid": "one"})


def _sign_in(**options: Any) -> SignIn:
    made = SignIn(Oidc(issuer=ISSUER, client_id="page", **options), "https://archive.corp.example")
    made.issuer._metadata = (time.monotonic(), {"issuer": ISSUER, "jwks_uri": "https://sso.corp.example/keys"})
    made.issuer._keys = (time.monotonic(), KeySet([KEY]))
    return made


def _claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": "page", "exp": now + 300, "iat": now, "nonce": "n", "sub": "1",
              "email": "P.Petrov@corp.example", "email_verified": True}  # fmt: skip
    return {name: value for name, value in (claims | changed).items() if value is not ...}


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _token(claims: dict[str, Any], key: Any = KEY, alg: str = "RS256") -> str:
    return jwt.encode({"alg": alg, "kid": "one"}, claims, key, algorithms=[alg])


def test_a_good_token_names_a_person() -> None:
    sign_in = _sign_in()
    assert sign_in.issuer.user(sign_in._claims(_token(_claims()), "n")) == "p.petrov@corp.example"


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://evil.example"}, {"aud": "another"}, {"aud": ["another"]}, {"aud": ...}, {"iss": ...},
        {"exp": 1}, {"exp": ...}, {"nonce": "another"}, {"nonce": ...}, {"azp": "another"}, {"iat": ...},
        {"nbf": int(time.time()) + 9999},
    ],
)  # fmt: skip
def test_a_token_for_another_or_of_another_time_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(SignInRefused):
        _sign_in()._claims(_token(_claims(**changed)), "n")


def test_a_token_of_another_key_or_none_is_refused() -> None:
    sign_in = _sign_in()
    claims = _token(_claims()).split(".")[1]
    # The public key as the secret of a symmetric signature.
    begun = f"{_part({'alg': 'HS256', 'kid': 'one'})}.{claims}"
    signature = hmac.new(KEY.as_pem(private=False), begun.encode(), hashlib.sha256).digest()
    confused = f"{begun}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
    unsigned = f"{_part({'alg': 'none'})}.{claims}."
    for token in (_token(_claims(), OTHER), confused, unsigned, "", "x", "a.b.c"):
        with pytest.raises(SignInRefused):
            sign_in._claims(token, "n")


@pytest.mark.parametrize(
    ("options", "changed", "why"),
    [
        ({}, {"email": ...}, "has no email"),
        ({}, {"email": 5}, "has no email"),
        ({}, {"email": " "}, "has no email"),
        ({}, {"email": "a\u202eb@x"}, "has no email"),
        ({}, {"email": "x" * 300}, "has no email"),
        ({}, {"email_verified": False}, "has not verified"),
        ({}, {"email_verified": ...}, "has not verified"),
        ({}, {"email_verified": "true"}, "has not verified"),
        ({"claim": "vkid"}, {}, "has no vkid"),
    ],
)
def test_a_token_that_names_nobody_is_refused(options: dict[str, Any], changed: dict[str, Any], why: str) -> None:
    sign_in = _sign_in(**options)
    with pytest.raises(SignInRefused, match=why):
        sign_in.issuer.user(_claims(**changed))


def test_options_choose_the_claim_and_the_mapping(tmp_path: Path) -> None:
    users = tmp_path / "users.toml"
    users.write_text('[users]\n"p.petrov@corp.example" = "123456"\n')
    users.chmod(0o644)
    assert _sign_in(users_file=str(users)).issuer.user(_claims()) == "123456"
    assert _sign_in(claim="vkid").issuer.user(_claims(vkid="Id", email_verified=False)) == "Id"
    assert _sign_in(require_verified=False).issuer.user(_claims(email_verified=False)) == "p.petrov@corp.example"


@pytest.mark.parametrize(
    ("options", "url", "why"),
    [
        ({"client_id": ""}, "https://a.example", "client_id: it is missing"),
        ({"issuer": "http://sso.corp.example"}, "https://a.example", "no https:// URL"),
        ({"issuer": "sso"}, "https://a.example", "no https:// URL"),
        ({}, "", "needs web.url"),
        ({"client_secret_file": "/nowhere"}, "https://a.example", "cannot be read"),
        ({"users_file": __file__}, "https://a.example", "it is not TOML"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        SignIn(Oidc(**({"issuer": ISSUER, "client_id": "page"} | options)), url)


@pytest.mark.parametrize(("option", "mode"), [("client_secret_file", 0o644), ("client_secret_file", 0o660),
                                              ("users_file", 0o666)])  # fmt: skip
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, option: str, mode: int) -> None:
    file = tmp_path / "file"
    file.write_text("[users]\n")
    file.chmod(mode)
    with pytest.raises(PermissionRefused):
        _sign_in(**{option: str(file)})


def test_an_issuer_that_does_not_answer_refuses(tmp_path: Path) -> None:
    sign_in = SignIn(Oidc(issuer="http://127.0.0.1:1", client_id="page"), "https://archive.corp.example")
    with pytest.raises(SignInRefused, match="does not answer"):
        sign_in.begin("/")


def test_attempts_are_limited_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(attempt_limit.time, "monotonic", lambda: now[0])
    limit = AttemptLimit()
    assert [limit.is_reached("a") for _ in range(attempt_limit.MOST + 1)] == [False] * attempt_limit.MOST + [True]
    assert not limit.is_reached("b")
    now[0] = attempt_limit.PERIOD + 1
    assert not limit.is_reached("a")


@pytest.mark.parametrize("path", ["//x", "/\\x", "https://x", "x", "", "/a\n", "/ a"])
def test_a_path_that_leads_elsewhere_is_the_first_page(path: str) -> None:
    assert local_path(path) == "/"
