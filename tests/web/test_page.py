"""The page as a browser without JavaScript gets it: search, chats, messages, and who may see them."""

from __future__ import annotations

import base64
import hashlib
import html
import http.client
import re
import subprocess
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, quote, urlencode, urlsplit
from xml.etree import ElementTree

import pytest

from tests.harness.mcp import Office, asked, over_http
from tests.harness.waiting import until
from tests.harness.web import ADMIN, HOSTILE_CHAT, PETR, STRANGER, Answer, Page
from vkteams_daemon.daemon import status as status_file

OPS = "681869378@chat.agent"
FLAT = "684120415@chat.agent"


class Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def links(self, css_class: str = "") -> list[str]:
        """Where the links of this class lead to."""
        return [
            str(attributes["href"])
            for tag, attributes in self.tags
            if tag == "a" and (not css_class or css_class in (attributes.get("class") or "").split())
        ]


def _find(page: Page, user: str = PETR, **asked: str) -> Answer:
    answer = page.get(f"/?{urlencode(asked)}", user)
    assert answer.status == 200, answer.text
    return answer


def _hits(answer: Answer) -> list[str]:
    return Tags(answer.text).links("cover")


def _open(page: Page, link: str, user: str | None = PETR) -> Answer:
    return page.get(urlsplit(link)._replace(fragment="").geturl(), user)


# Who may see what


@pytest.mark.parametrize(
    "path", ["/", "/?q=backup", f"/c/{OPS}", "/m/a/b", "/health", "/activity", "/activity/days.svg"]
)
def test_without_a_sign_in_nothing_is_shown(page: Page, path: str) -> None:
    answer = page.get(path, None)
    assert answer.status == 401 and "signed in" in answer.words
    assert "backup" not in answer.words


def test_a_stranger_finds_nothing_and_opens_nothing(page: Page) -> None:
    assert _hits(_find(page, STRANGER, q="backup")) == []
    home = page.get("/", STRANGER)
    assert "no chat that you may see" in home.words and 'datalist id="people"></datalist>' in home.text
    for path in (f"/c/{OPS}", _hits(_find(page, q="backup"))[0], "/health"):
        missing = page.get("/c/1@chat.agent", STRANGER)
        answer = _open(page, path, STRANGER)
        assert (answer.status, answer.words) == (404, missing.words)


def test_a_member_sees_the_chats_in_which_they_are(page: Page) -> None:
    assert _hits(_find(page, q="backup"))
    assert page.get(f"/c/{OPS}").status == 200
    assert 'datalist id="people"><option' in page.get("/").text
    assert 'id="people"' not in _find(page, q="backup").text, "a browser asks for the names when a field needs them"
    private = page.office.rows("SELECT chat_id FROM chats WHERE type = 'private' LIMIT 1")
    assert private and page.get(f"/c/{quote(private[0][0])}").status == 404


def test_the_health_is_for_administrators(page: Page) -> None:
    health = page.get("/health", ADMIN)
    assert health.status == 200 and "Half of the messages are stored within" in health.words
    assert "Nothing is known to be missing." in health.words
    (address,) = {attributes["src"] for tag, attributes in Tags(health.text).tags if tag == "img"} - {
        next(attributes["src"] for tag, attributes in Tags(health.text).tags if tag == "img")
    }
    assert page.get(str(address), ADMIN).headers["Content-Type"] == "image/svg+xml"
    assert page.get(str(address), PETR).status == 404
    assert 'href="/health"' in page.get("/", ADMIN).text and 'href="/health"' not in page.get("/").text


def test_a_page_without_a_way_to_sign_in_does_not_start(office: Office) -> None:
    assert office.failed("web", "serve", "--http", "127.0.0.1:0") == (
        78, "vkteamsctl: nobody could sign in to the page. Set oidc.issuer or web.trusted_proxies, or"
        " web.open_on_loopback for a trial (docs/web.md).\n",
    )  # fmt: skip
    office.configure(web={"open_on_loopback": True})
    code, said = office.failed("web", "serve", "--http", "0.0.0.0:0")
    assert code == 64 and "nobody would have to sign in" in said
    # Beside agents whose tokens cannot be read: no word of a socket that nobody has closed.
    office.configure(web={"open_on_loopback": True}, mcp={"tokens_file": str(office.directory / "missing.toml")})
    code, said = office.failed("web", "serve", "--http", "127.0.0.1:0", "--mcp")
    assert code != 0 and "missing.toml" in said and "ResourceWarning" not in said


def test_what_waits_for_the_database_is_told(page: Page) -> None:
    """Without its number, which depends on chats that the reader may not see."""
    status = status_file.new("1.0", "all")
    status.database = status_file.Database(state="down")
    status.spool = status_file.Spool(events=3, bytes=999)
    path = page.office.directory / "run" / "vkteamsd.status.json"
    path.parent.mkdir(exist_ok=True)
    status_file.write(status, path)
    try:
        assert "The archive cannot reach its database" in _find(page, q="backup").words
        russian = page.get("/?q=backup", PETR, Accept_Language="ru").words
        assert "У архива нет связи с базой данных; самых новых сообщений может не хватать." in russian
    finally:
        path.unlink()
    assert "cannot reach" not in _find(page, q="backup").words


def test_every_question_is_audited(page: Page) -> None:
    _find(page, q="dnsquestion", who="Анна")

    def lines() -> list[str]:
        return [line for line in page.office.said.read_text().splitlines() if "dnsquestion" in line]

    [line] = until(lines, 30, "the line, which a thread of its own writes")
    assert '"audit": "web"' in line and f'"who": "{PETR}"' in line and '"call": "search"' in line


# The answers' headers, and forms


@pytest.mark.parametrize("path", ["/", "/?q=a", "/nothing", "/static/page.js", "/static/../page.js", "/m/a/b"])
def test_every_answer_has_the_headers_that_keep_a_browser_safe(page: Page, path: str) -> None:
    for user in (PETR, None):
        answer = page.get(path, user)
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost:1:2", "", "127.0.0.1:x"])
def test_a_foreign_host_is_refused(page: Page, host: str) -> None:
    answer = page.get("/", Host=host)
    assert answer.status in (400, 421) and "chat" not in answer.text


def test_a_form_of_another_page_changes_nothing(page: Page) -> None:
    first = page.get("/")
    (cookie,) = first.cookies.items()
    sent = {"Cookie": "=".join(cookie), "Content-Type": "application/x-www-form-urlencoded"}
    token = re.search(r'name="token" value="(\w+)"', first.text)
    assert token
    good = {"token": token[1], "language": "ru", "theme": "dark", "back": "/?q=a"}
    for form, headers in (
        (good | {"token": "x"}, sent), ({"language": "ru"}, sent), (good, {**sent, "Cookie": "vkteams=x"}),
        (good, {"Content-Type": sent["Content-Type"]}),
    ):  # fmt: skip
        answer = page.request("POST", "/settings", PETR, headers, urlencode(form))
        assert answer.status == 403 and not answer.cookies
    answer = page.request("POST", "/settings", PETR, sent, urlencode(good))
    assert (answer.status, answer.headers["Location"]) == (303, "/?q=a")
    changed = page.get("/", Cookie=f"{cookie[0]}={answer.cookies[cookie[0]]}")
    assert '<html lang="ru" data-theme="dark">' in changed.text and "Что было сказано?" in changed.words
    set_cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in set_cookie and "SameSite=lax" in set_cookie


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example", "/\\evil.example", "/\tx", "javascript:x", ""]
)
def test_a_form_leads_nowhere_else(page: Page, back: str) -> None:
    first = page.get("/")
    token = re.search(r'name="token" value="(\w+)"', first.text)
    assert token
    sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in first.cookies.items())}
    answer = page.request(
        "POST", "/settings", PETR, sent, urlencode({"token": token[1], "theme": "dark", "back": back})
    )
    assert (answer.status, answer.headers["Location"]) == (303, "/")


def test_a_cookie_is_secure_behind_tls(page: Page) -> None:
    answer = page.get("/", X_Forwarded_Proto="https")
    assert list(answer.cookies) == ["__Host-vkteams"] and "Secure" in answer.headers["Set-Cookie"]
    assert "Secure" not in page.get("/").headers["Set-Cookie"]


def test_the_language_is_the_browsers(page: Page) -> None:
    assert '<html lang="ru">' in page.get("/", Accept_Language="ru-RU,ru").text
    assert '<html lang="en">' in page.get("/", Accept_Language="de").text


# Search


def test_words_are_marked_and_a_hit_says_who_where_and_when(page: Page) -> None:
    answer = _find(page, q="OPS-142")
    assert "<mark>OPS-142</mark>" in answer.text
    assert "Михаил Орлов" in answer.words and "Эксплуатация" in answer.words
    assert re.search(r'<time class="meta" datetime="2026[^"]+" title="\w+day, ', answer.text)


def test_a_filter_is_a_chip_that_can_be_taken_away(page: Page) -> None:
    answer = _find(page, q="сервер", who="Анна", when="last month", has="", sort="new")
    assert "Person Анна Иванова" in answer.words
    links = [frozenset(parse_qs(urlsplit(link).query)) for link in Tags(answer.text).links() if link.startswith("/?")]
    assert {names for names in links if "n" not in names} == {
        frozenset({"q", "when", "sort"}), frozenset({"q", "who", "sort"}),
    }  # fmt: skip


def test_each_chat_that_the_field_offers_can_be_chosen(page: Page) -> None:
    chats = page.get("/").text.split('<datalist id="chats">')[1].split("</datalist>")[0]
    offered = re.findall('<option value="([^"]+)">', chats)
    assert len(offered) > 1
    for title in offered:
        assert "Several have this name" not in _find(page, q="x", chat=html.unescape(title)).words


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"q": "x", "who": "nobodyhasthisname"}, "Nobody and no chat that you may see has this name."),
        ({"q": "x", "when": "someday"}, "“someday” is no time that can be read"),
        ({"q": "qqqzzzxxxwww", "when": "in 2001"}, "Nothing was found."),
        ({"q": "bakcup"}, "Showing what was found for"),
    ],
)  # fmt: skip
def test_the_page_says_what_it_took_and_what_it_did_not(page: Page, asked: dict[str, str], said: str) -> None:
    assert said in _find(page, **asked).words


def test_what_is_no_value_is_left_out(page: Page) -> None:
    plain = _hits(_find(page, q="backup"))
    assert _hits(_find(page, q="backup", n="-1", has="<script>", sort="x", unknown="y")) == plain
    assert page.get("/?q=%00%ff%ed%a0%80").status == 200
    assert page.get(f"/?q={quote('я' * 5000)}").status == 200


def test_more_hits_have_a_plain_address_and_repeat_nothing(page: Page) -> None:
    first = _find(page, q="сервер")
    (more,) = [link for link in Tags(first.text).links() if "n=40" in link]
    assert set(parse_qs(urlsplit(more).query)) == {"q", "n"}
    hits = _hits(_open(page, more))
    assert len(hits) == 40 == len(set(hits)) and hits[:20] == _hits(first)


def test_a_filter_alone_shows_the_newest(page: Page) -> None:
    hits = _hits(_find(page, who="Анна"))
    assert hits and "Анна Иванова" in _find(page, who="Анна").words
    files = _find(page, has="file")
    assert 1 < len(_hits(files)) < 20 and '<p class="meta">File</p>' in files.text


# A chat


def _messages(answer: Answer) -> list[str]:
    return Tags(answer.text).links("clock")


def test_a_hit_stands_in_its_conversation(page: Page) -> None:
    link = _hits(_find(page, q="OPS-142"))[0]
    answer = _open(page, link)
    assert answer.status == 200 and answer.text.count('id="hit"') == 1
    messages = _messages(answer)
    place = messages.index(link)
    assert 0 < place < len(messages) - 10
    assert "aria-current" in answer.text


def test_the_links_lead_through_the_whole_chat_and_repeat_nothing(page: Page) -> None:
    (total,) = page.office.rows("SELECT count(*) FROM messages WHERE chat_id = %s", OPS)[0]
    seen: list[str] = []
    link = f"/c/{OPS}"
    while link:
        answer = _open(page, link)
        seen = _messages(answer) + seen
        link = next(iter(Tags(answer.text).links("older")), "")
    assert len(seen) == total == len(set(seen))
    first = page.get(f"/c/{OPS}?day=2026-01-01")
    again = _messages(first)
    while link := next(iter(Tags(first.text).links("newer")), ""):
        first = _open(page, link)
        again += _messages(first)
    assert again == seen


def _shown(page: Page, condition: str, chat: str = "") -> Answer:
    """The page of the first message that fulfils this condition."""
    rows = page.office.rows(
        f"SELECT m.chat_id, m.msg_id FROM messages m JOIN chats c USING (chat_id) WHERE c.type = 'group' AND"
        f" {condition} AND m.chat_id <> %s ORDER BY m.sent_at LIMIT 1", HOSTILE_CHAT,
    )  # fmt: skip
    answer = page.get(f"/m/{rows[0][0]}/{rows[0][1]}")
    assert answer.status == 200
    hit = re.search(r'(?s)id="hit".*?</article>', answer.text)
    assert hit
    answer.text = f"<main>{hit[0]}</main>"
    return answer


def test_a_message_shows_what_it_answers_and_where_that_stands(page: Page) -> None:
    answer = _shown(page, "m.reply_to_msg_id IN (SELECT msg_id FROM messages WHERE deleted_at IS NULL)")
    assert re.search(r'<blockquote class="answers"><a href="/m/[^"]+#hit">', answer.text)


def test_an_edit_shows_each_earlier_text(page: Page) -> None:
    answer = _shown(page, "EXISTS (SELECT FROM message_versions v WHERE v.msg_id = m.msg_id)")
    texts = page.office.rows(
        "SELECT v.text FROM message_versions v JOIN messages m USING (chat_id, msg_id) JOIN chats c USING (chat_id)"
        " WHERE c.type = 'group' ORDER BY m.sent_at LIMIT 1"
    )
    assert "edited" in answer.words and " ".join(texts[0][0].split())[:40] in answer.words


def test_a_deleted_message_says_so_and_is_shown_where_it_was_kept(page: Page) -> None:
    answer = _shown(page, "m.deleted_at IS NOT NULL AND m.text IS NOT NULL")
    assert "deleted" in answer.words and len(answer.words) > 60


def test_a_forward_says_whose_words_they_are(page: Page) -> None:
    answer = _shown(page, "m.forward IS NOT NULL")
    assert "forwarded, the words of" in answer.words and '<figure class="forward' in answer.text


@pytest.mark.parametrize(
    ("condition", "html"),
    [
        ("m.format ? 'bold'", '<strong class="as-bold">'),
        ("m.format ? 'inlineCode'", '<code class="as-code">'),
        ("m.format ? 'pre'", '<code class="as-pre">'),
        ("m.format ? 'link'", 'rel="noopener noreferrer nofollow"'),
        ("strpos(m.text, '@[') > 0", '<span class="mention">@'),
        ("m.parts @> '[{\"type\": \"file\"}]'", '<span class="kind kind-'),
        ("m.parts @> '[{\"type\": \"voice\"}]'", "Voice message"),
        ("m.parts @> '[{\"type\": \"sticker\"}]'", "Sticker"),
        ("EXISTS (SELECT FROM chats t WHERE t.parent_msg_id = m.msg_id)", "in the thread"),
    ],
)  # fmt: skip
def test_a_message_looks_as_it_was_sent(page: Page, condition: str, html: str) -> None:
    assert html in _shown(page, condition).text


def test_a_thread_leads_back_to_its_message(page: Page) -> None:
    thread, parent, message = page.office.rows(
        "SELECT chat_id, parent_chat_id, parent_msg_id FROM chats WHERE parent_msg_id IS NOT NULL"
    )[0]
    assert f"/m/{parent}/{message}#hit" in page.get(f"/c/{thread}").text


@pytest.mark.parametrize("query", ["day=x", "day=9999-12-31", "before=none", "after=%00", "before=", "day=0001-01-01"])
def test_a_place_that_does_not_exist_is_no_fault(page: Page, query: str) -> None:
    assert page.get(f"/c/{OPS}?{query}").status in (200, 404)


# What is new


def test_what_is_new_since_the_last_look(page: Page) -> None:
    first = page.get("/today")
    assert first.status == 303
    since = parse_qs(urlsplit(first.headers["Location"]).query)["since"][0]
    last_week = datetime.fromisoformat(since) - timedelta(days=7)  # the chats end on the last Wednesday
    address = f"/today?since={last_week:%Y-%m-%dT%H:%M:%S}"
    shown = page.get(address)
    assert shown.status == 200 and "New in your chats" in shown.words and "Эксплуатация" in shown.words
    assert page.get(address).text.count("<li data-item>") == shown.text.count("<li data-item>") > 3
    cookie = "; ".join(f"{name}={value}" for name, value in first.cookies.items())
    second = page.get("/today", Cookie=cookie)
    assert parse_qs(urlsplit(second.headers["Location"]).query)["since"][0] > since
    assert "Nothing was said since then." in page.get(second.headers["Location"]).words
    assert "Nothing was said since then." in page.get(address, STRANGER).words
    for wrong in ("x", "2001-01-01", "9999-01-01", "2026-01-01T00:00:00+99:00", ""):
        assert page.get(f"/today?since={quote(wrong)}").status == 303


# The activity


@pytest.fixture
def activity(page: Page) -> Answer:
    answer = page.get("/activity?days=365")
    assert answer.status == 200
    return answer


def _pictures(answer: Answer) -> list[str]:
    addresses = [attributes.get("src") or attributes.get("srcset") for tag, attributes in Tags(answer.text).tags
                 if tag in ("img", "source")]  # fmt: skip
    return [address for address in addresses if address and address.startswith("/activity/")]


def test_each_picture_is_an_image_without_script_and_reference_and_has_its_table(page: Page, activity: Answer) -> None:
    pictures = _pictures(activity)
    assert {urlsplit(address).path for address in pictures} == {
        f"/activity/{name}.svg" for name in ("days", "hours", "chats", "people", "answers")
    }
    assert activity.text.count("<table>") == activity.text.count('<img src="/activity/') == 5
    assert all(
        attributes["alt"]
        for tag, attributes in Tags(activity.text).tags
        if tag == "img" and "activity" in str(attributes["src"])
    )
    one_of_each = {urlsplit(address).path: address for address in pictures}.values()
    for address in (*one_of_each, pictures[0], "/health/lag.svg?dark=1"):
        answer = page.get(address, ADMIN)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/svg+xml")
        root = ElementTree.fromstring(answer.text)
        sheets = [each.text or "" for each in root.iter() if each.tag.endswith("}style")]
        assert not {each.tag.partition("}")[2] for each in root.iter()} - {
            "svg", "defs", "style", "g", "path", "rect", "circle", "line", "text", "tspan",
        }  # fmt: skip
        names = {name for each in root.iter() for name in each.attrib}
        assert not [name for name in names if name.startswith("on") or "href" in name or name in ("style", "src")]
        assert not re.search(r"url\(|@import|https?:(?!//www\.w3\.org/)|<!--|<\?(?!xml version)", answer.text)
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b]", answer.text)
        (sheet,) = sheets
        digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
        assert answer.headers.get_all("Content-Security-Policy") == [f"default-src 'none'; style-src 'sha256-{digest}'"]


def test_the_pulse_counts_what_the_visitor_sees(page: Page, activity: Answer) -> None:
    (total,) = page.office.rows(
        "SELECT count(*) FROM messages m WHERE deleted_at IS NULL AND (chat_id IN (SELECT chat_id FROM roster_members"
        " WHERE user_id = %s) OR chat_id IN (SELECT t.chat_id FROM chats t JOIN roster_members r"
        " ON r.chat_id = t.parent_chat_id WHERE r.user_id = %s) OR chat_id = %s)", PETR, PETR, PETR,
    )[0]  # fmt: skip
    assert f"{total:,} messages" in activity.words
    assert "Эксплуатация" in activity.words and "Анна Иванова" in activity.words
    one = page.get(f"/activity?days=365&chat={quote('Эксплуатация')}")
    assert "Эксплуатация" in one.words and f"{total:,} messages" not in one.words
    assert "Nothing was said in this time that you may see." in page.get("/activity", STRANGER).words
    assert "Nobody and no chat" in page.get(f"/activity?chat={OPS}", STRANGER).words
    assert page.get(f"/activity/days.svg?chat={OPS}", STRANGER).status == 404 == page.get("/activity/none.svg").status


# Hostile content


@pytest.mark.parametrize(
    "path", ["/", f"/c/{HOSTILE_CHAT}", "/?q=zloydey", "/?q=zloydey&chat=zloydey&n=100", "/activity?days=365"]
)
@pytest.mark.parametrize("user", [PETR, ADMIN])
def test_no_text_becomes_a_tag_an_attribute_or_a_link_that_does_harm(page: Page, path: str, user: str) -> None:
    answer = page.get(path, user)
    parsed = Tags(answer.text)
    assert [attributes for tag, attributes in parsed.tags if tag == "script"] == [
        {"src": next(str(a["src"]) for t, a in parsed.tags if t == "script"), "defer": None}
    ]
    allowed = {"html", "head", "body", "meta", "title", "link", "script", "a", "header", "nav", "main", "footer"}
    assert {tag for tag, _ in parsed.tags} <= allowed | {
        "img", "span", "form", "input", "button", "label", "details", "summary", "div", "select", "option", "datalist",
        "section", "article", "h1", "h2", "p", "ul", "ol", "li", "time", "bdi", "mark", "aside", "blockquote", "figure",
        "figcaption", "picture", "source", "table", "thead", "tbody", "tr", "th", "td", "strong", "em", "u", "s",
        "code", "kbd", "dialog", "dl", "dt", "dd",
    }  # fmt: skip
    assert len([tag for tag, _ in parsed.tags if tag == "img"]) == (6 if "activity" in path else 1)
    for _, attributes in parsed.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("href", "src", "action"):
            if (target := attributes.get(name)) is not None:
                assert target.startswith(("/", "#", "https://", "http://")) and not target.startswith("//"), target
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b]", answer.text)
    assert len(answer.text) < 300_000


def test_each_hostile_message_has_its_own_address(page: Page) -> None:
    messages = _messages(page.get(f"/c/{HOSTILE_CHAT}"))
    assert len(messages) == 8
    for link in messages:
        assert _open(page, link).status == 200
    whole = _open(page, next(link for link in messages if "h-huge" in link))
    assert 20_000 < whole.text.count("жук") < 30_000, "100,000 characters of it"


# For those who do not see it


@pytest.mark.parametrize("path", ["/", "/?q=backup&who=Анна", f"/c/{OPS}", "/activity"])
def test_fields_have_labels_and_the_page_has_landmarks(page: Page, path: str) -> None:
    answer = page.get(quote(path, safe="/?=&@"))
    parsed = Tags(answer.text)
    kinds = [tag for tag, _ in parsed.tags]
    assert kinds.count("main") == kinds.count("footer") == 1 and "nav" in kinds
    labelled = {attributes.get("for") for tag, attributes in parsed.tags if tag == "label"}
    for match in re.finditer(r"<(input|select)\b([^>]*)>", answer.text):
        if 'type="hidden"' in match[2]:
            continue
        own = re.search(r'\bid="([^"]+)"', match[2])
        inside = answer.text.rfind("<label", 0, match.start()) > answer.text.rfind("</label>", 0, match.start())
        assert inside or (own and own[1] in labelled), match[0]
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_message_can_be_cited_where_the_page_has_an_address(office: Office) -> None:
    found = office.ctl("search", "text", "OPS-142")["hits"][0]
    assert found["url"] is None
    office.configure(web={"message_link": "https://chat.corp.example/{chat_id}#{msg_id}"})
    found = office.ctl("search", "text", "OPS-142")["hits"][0]
    assert found["url"] == f"https://chat.corp.example/{found['chat_id']}#{found['msg_id']}"
    office.configure(web={"url": "https://archive.corp.example/"})
    found = office.ctl("search", "text", "OPS-142")["hits"][0]
    assert found["url"] == f"https://archive.corp.example/m/{found['chat_id']}/{found['msg_id']}"
    assert asked(office, "search_text", query="OPS-142")["hits"][0]["url"] == found["url"]
    assert asked(office, "get_message", msg_id=found["msg_id"], chat_id=found["chat_id"])["url"] == found["url"]


def test_page_and_agents_share_a_pool_and_the_program_ends_when_it_is_told_to(office: Office, tmp_path: Path) -> None:
    tokens = office.directory / "tokens.toml"
    token = "claude-" + "c" * 40
    tokens.write_text(f'[tokens.claude]\ntoken = "{token}"\n')
    tokens.chmod(0o600)
    office.configure(web={"open_on_loopback": True}, mcp={"tokens_file": str(tokens)})
    (office.directory / "state").mkdir()
    own = Page(office, "127.0.0.1:0", "--mcp")
    answer = own.get("/?q=backup", None)
    assert answer.status == 200 and _hits(answer)
    assert own.get("/?q=backup", PETR).status == 401, "a proxy has passed it on"
    agent = over_http(f"{own.url}mcp", lambda client: client.call_tool("list_chats", {}), token=token)
    assert not agent.is_error
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
    assert office.rows(sessions, "vkteams-search") == [(1,)], "page and MCP have one pool"
    address = re.search(r'data-live="([^"]+)"', _open(own, own.get("/today", None).headers["Location"], None).text)
    assert address
    stream = http.client.HTTPConnection("127.0.0.1", own.port, timeout=60)
    stream.request("GET", html.unescape(address[1]))
    events = stream.getresponse()
    assert events.readline() == b"retry: 5000\n"
    assert own.end() == 0
    assert events.read() == b"\n", "the stream ended by itself"
    stream.close()
    assert "Cancel" not in office.said.read_text()
    key = office.directory / "state" / "cookie.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert html.escape(key.read_bytes().hex()) not in office.said.read_text()


def test_the_extra_that_is_missing_is_named(office: Office) -> None:
    office.configure(web={"open_on_loopback": True})
    program = (
        "import sys; sys.modules['jinja2'] = None\nfrom vkteams_daemon.ctl.main import main\n"
        f"sys.exit(main(['--config', {str(office.file)!r}, 'web', 'serve', '--http', '127.0.0.1:0']))"
    )
    command = [*office.command()[:1], "-c", program]
    done = subprocess.run(command, env=office.environ(), text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 78 and "the page needs the Python package jinja2" in done.stderr, done.stderr
