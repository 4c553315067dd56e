"""What people wrote as HTML: nothing of it is a tag, a script, or a mark that turns letters around."""

from __future__ import annotations

import pytest

from vkteams_daemon.botapi.text_format import Run
from vkteams_daemon.web import markup


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "JaVaScript:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)", "data:text/html,x",
     "vbscript:x", "//evil.example", "/relative", "", "http://", "http://[", "https://x.example:port/", "file:///etc",
     "https://x.example/\u202egpj", "\x01https://x.example", "https://x.example/a b", "https:x", "h" * 5000],
)  # fmt: skip
def test_a_url_that_could_do_harm_is_no_link(url: str) -> None:
    assert markup.safe_url(url) is None
    assert "<a" not in markup.formatted([Run("text", url=url)], 100)


@pytest.mark.parametrize("url", ["https://x.example/a?b=c#d", "http://10.0.0.1:8080/", "mailto:p@corp.example"])
def test_a_plain_url_is_a_link(url: str) -> None:
    assert markup.safe_url(url) == url


def test_a_link_whose_words_name_another_host_says_where_it_leads() -> None:
    html = markup.formatted([Run("https://bank.example", url="https://evil.example/x")], 100)
    assert "(evil.example)" in html
    assert "(" not in markup.formatted([Run("https://bank.example", url="https://bank.example/x")], 100)


def test_texts_are_escaped_and_cut() -> None:
    html = markup.formatted([Run("<b>\"'&\u202e\x00", frozenset({"bold", "pre"})), Run("x" * 50)], 20)
    assert html.startswith('<strong class="as-bold"><code class="as-pre">&lt;b&gt;&#34;&#39;&amp;</code></strong>')
    assert html.endswith("[…]") and "\u202e" not in html and html.count("x") < 20
    assert markup.plain("a\u202eb<i>") == "ab&lt;i&gt;"


@pytest.mark.parametrize(
    ("snippet", "html"),
    [
        ("a **b** c", "a <mark>b</mark> c"),
        ("**<b>** x", "<mark>&lt;b&gt;</mark> x"),
        ("2 ** 3", "2  3"),
        ("**a** and ** more", "<mark>a</mark> and  more"),
        ("", ""),
    ],
)
def test_the_marks_of_a_snippet(snippet: str, html: str) -> None:
    assert markup.marked(snippet) == html


def test_initials_are_letters() -> None:
    assert markup.initials("Анна Иванова") == "АИ"
    assert markup.initials("p.petrov@corp.example") == "PP"
    assert markup.initials(None) == markup.initials("<> \u202e") == "?"
