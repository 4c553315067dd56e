"""The format of a text: which characters are bold, a link, code; whatever the API sends for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkteams_daemon.botapi.text_format import Run, runs


def test_formats_overlap() -> None:
    found = runs("abcdef", {"bold": [{"offset": 0, "length": 4}], "italic": [{"offset": 2, "length": 4}]})
    assert found == [
        Run("ab", frozenset({"bold"})), Run("cd", frozenset({"bold", "italic"})), Run("ef", frozenset({"italic"})),
    ]  # fmt: skip


def test_a_link_an_address_and_a_mention() -> None:
    text = "see docs at https://corp.example/a(b). @[p@corp.example]"
    found = runs(text, {"link": [{"offset": 4, "length": 4, "url": "https://x.example"}]})
    assert found == [
        Run("see "), Run("docs", url="https://x.example"), Run(" at "),
        Run("https://corp.example/a(b", url="https://corp.example/a(b"), Run("). "),
        Run("@[p@corp.example]", user_id="p@corp.example"),
    ]  # fmt: skip


def test_an_address_in_code_is_code() -> None:
    assert runs("https://x.example", {"inlineCode": [{"offset": 0, "length": 17}]}) == [
        Run("https://x.example", frozenset({"code"}))
    ]


@pytest.mark.parametrize(("offset", "text"), [(3, "🙂 bold"), (2, "я bold")])
def test_offsets_count_utf16_units(offset: int, text: str) -> None:
    assert runs(text, {"bold": [{"offset": offset, "length": 4}]})[-1] == Run("bold", frozenset({"bold"}))


def test_a_mention_tells_that_offsets_count_characters() -> None:
    text = "🙂 @[p@c.example] bold"
    formats = {"mention": [{"offset": 2, "length": 14}], "bold": [{"offset": 17, "length": 4}]}
    assert runs(text, formats)[-1] == Run("bold", frozenset({"bold"}))


_VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.floats(), lambda inner: st.lists(inner, max_size=3)
)
_SPAN = st.dictionaries(st.sampled_from(["offset", "length", "url"]), _VALUES)
_FORMATS = st.dictionaries(
    st.sampled_from(["bold", "link", "pre", "mention", "inline_code", "x"]), _VALUES | st.lists(_SPAN, max_size=6)
)


@given(st.text(max_size=60), _FORMATS | _VALUES)
def test_no_letter_is_lost_whatever_the_format_says(text: str, formats: Any) -> None:
    assert "".join(run.text for run in runs(text, formats)) == text
