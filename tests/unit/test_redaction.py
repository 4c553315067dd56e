from __future__ import annotations

from urllib.parse import quote

import pytest

from vkteams_daemon.config import Config
from vkteams_daemon.options import Api, Database
from vkteams_daemon.system.redaction import MASK, Secrets

TOKEN = "001.1234567890.0987654321:1000000042"


def _secrets(*, token: str = "", url: str = "", proxy: str = "") -> Secrets:
    secrets = Secrets()
    secrets.learn(Config(api=Api(token=token, proxy=proxy), database=Database(url=url)))
    return secrets


@pytest.mark.parametrize(
    "form", [TOKEN, quote(TOKEN), quote(TOKEN, safe=""), quote(TOKEN, safe="").replace("%3A", "%3a")]
)
def test_token_is_masked_in_every_spelling(form: str) -> None:
    text = f"GET /bot/v1/events/get?token={form}&lastEventId=1 failed: {form!r}"
    hidden = _secrets(token=TOKEN).hide(text)
    assert hidden == f"GET /bot/v1/events/get?token={MASK}&lastEventId=1 failed: '{MASK}'"


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("postgresql://anna:s3cret@db/x", "s3cret"), ("postgresql://anna:p%40ss%2Fword@db/x", "p%40ss%2Fword"),
        ("postgresql://anna:p%40ss%2Fword@db/x", "p@ss/word"), ("postgresql://db/x?user=a&password=s3cret", "s3cret"),
        ("host=db password=s3cret user=a", "s3cret"), ("host=db password = 's3c ret' user=a", "s3c ret"),
        (r"password='it\'s \\ me'", r"it's \ me"), (r"password='it\'s \\ me'", repr(r"it's \ me")[1:-1]),
        ("password=пароль", "пароль"), ("password=пароль", quote("пароль")),
    ],
)  # fmt: skip
def test_password_of_the_database_is_masked(url: str, password: str) -> None:
    assert _secrets(url=url).hide(f"connection with {password} failed") == f"connection with {MASK} failed"


def test_password_of_the_proxy_is_masked() -> None:
    hidden = _secrets(proxy="http://anna:s3cret@proxy:3128").hide("http://anna:s3cret@proxy:3128 refuses")
    assert hidden == f"http://anna:{MASK}@proxy:3128 refuses"


def test_hosts_and_users_stay_readable() -> None:
    secrets = _secrets(url="postgresql://anna:s3cret@db.example:5432/archive")
    assert secrets.hide("no connection to db.example:5432 as anna") == "no connection to db.example:5432 as anna"


def test_old_secrets_stay_masked_after_a_reload() -> None:
    secrets = _secrets(token=TOKEN)
    secrets.learn(Config(api=Api(token="002.5555555555.6666666666:7")))
    assert secrets.hide(f"{TOKEN} 002.5555555555.6666666666:7") == f"{MASK} {MASK}"


def test_secret_that_is_part_of_another_leaves_nothing_of_it() -> None:
    secrets = _secrets(token="aaaa-bbbb", url="postgresql://u:aaaa@h")
    secrets.learn(Config(api=Api(token="xx-aaaa-bbbb-yy")))
    assert secrets.hide("xx-aaaa-bbbb-yy aaaa-bbbb aaaa") == f"{MASK} {MASK} {MASK}"


def test_without_secrets_nothing_is_masked() -> None:
    for secrets in (Secrets(), _secrets(), _secrets(token="abc", url="postgresql://u:p@h")):
        assert secrets.hide("abc p and an ordinary line") == "abc p and an ordinary line"


def test_what_has_the_form_of_a_secret_is_masked_unknown() -> None:
    text = f"cannot read {TOKEN} or {quote(TOKEN, safe='')} or /srv/postgresql:/anna:s3cret@db/x"
    assert Secrets().hide(text) == f"cannot read {MASK} or {MASK} or /srv/postgresql:/anna:{MASK}@db/x"


def test_repr_of_a_configuration_shows_no_secret() -> None:
    config = Config(
        api=Api(
            token=TOKEN, token_file=f"/cwd/{TOKEN}", url="https://anna:s3cret@api/x", proxy="http://u:s3cret@proxy"
        ),
        database=Database(url="host=db password=s3cret", url_file="postgresql://u:s3cret@h/d"),
    )
    for shown in (repr(config), repr(config.api), repr(config.database), f"{config}"):
        assert "s3cret" not in shown
        assert TOKEN not in shown
    assert "poll_time=30" in repr(config.api)
