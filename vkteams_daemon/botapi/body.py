"""Splits the body of an events/get answer into its events, so that one hostile event cannot spoil its batch-mates.

The array is walked element by element with the C scanner; where that gives up (depth, NaN, numbers without end) the
element's extent is found by a scan that does not recurse, and only that element is handed on as unreadable.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]  # the stubs leave it out
from typing import Any

from vkteams_daemon.errors import ApiProtocolError

_SPACE = re.compile(r"[ \t\n\r]*")
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u([dD][89a-fA-F][0-9a-fA-F]{2}|0000)|\\.", re.DOTALL
)
_SCALAR = re.compile(r'\s*:\s*(\d{1,19}|"[\w.-]{1,200}")')
_SUSPECT = re.compile(r"\\u(?:0000|[dD][89a-fA-F])|[\ud800-\udfff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


class _Constant(ValueError):
    """NaN or Infinity: Python reads them, JSON and jsonb do not know them."""


def _refuse_constant(name: str) -> Any:
    raise _Constant(name)


_strict = json.JSONDecoder(parse_constant=_refuse_constant)
_lenient = json.JSONDecoder(strict=False, parse_constant=lambda name: None)


@dataclass(frozen=True, slots=True)
class Element:
    """One element of the `events` array.

    Attributes:
        value: the parsed element; with an error only what could be made out of its eventId and type.
        json: text that jsonb accepts and that says the same as `value`; "" with an error.
        raw: the element's bytes as received, where `json` says something else; otherwise None.
        error: why it cannot be read, or None.
    """

    value: Any
    json: str
    raw: bytes | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """An answer: its other top-level fields (`ok`, `description`, …) and the elements of `events`, None without it."""

    fields: dict[str, Any]
    elements: list[Element] | None


def split(body: bytes) -> Body:
    """Read an answer of events/get.

    Raises:
        ApiProtocolError: it is not one whole JSON object; nothing of it may be used.
    """
    # surrogateescape keeps bytes that are not UTF-8, so that `raw` can hold just what came.
    text = body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    fields: dict[str, Any] = {}
    elements: list[Element] | None = None
    try:
        at = _expect(text, _skip_space(text, 0), "{")
        while text[at] != "}":
            key, at = scanstring(text, _expect(text, at, '"'), False)
            at = _expect(text, _skip_space(text, at), ":")
            if key == "events" and text[at] == "[":
                elements, at = _split_array(text, at + 1)
            else:
                fields[key], at = _lenient.raw_decode(text, at)
            at = _skip_space(text, at)
            if text[at] == ",":
                at = _skip_space(text, at + 1)
        at = _skip_space(text, at + 1)
    except (IndexError, ValueError, RecursionError, StopIteration) as error:
        raise ApiProtocolError(f"the answer to events/get cannot be read ({_what(body)})") from error
    if at != len(text):
        raise ApiProtocolError("the answer to events/get goes on after its end")
    return Body(fields, elements)


def _split_array(text: str, at: int) -> tuple[list[Element], int]:
    elements = []
    at = _skip_space(text, at)
    while text[at] != "]":
        element, at = _element(text, at)
        elements.append(element)
        at = _skip_space(text, at)
        if text[at] == ",":
            at = _skip_space(text, at + 1)
        elif text[at] != "]":
            raise ValueError("no comma between events")
    return elements, at + 1


def _element(text: str, at: int) -> tuple[Element, int]:
    try:
        value, end = _strict.raw_decode(text, at)
    except (ValueError, RecursionError, StopIteration):
        end = _extent(text, at)
        return mended(text[at:end]), end
    source = text[at:end]
    return (mended(source) if _SUSPECT.search(source) else Element(value, source)), end


def mended(source: str) -> Element:
    """An element whose text jsonb does not take as it is: mended where possible, with the bytes as received."""
    raw = source.encode("utf-8", "surrogateescape")
    clean = _SURROGATE.sub("\ufffd", _ESCAPE.sub(_replacement, source))
    try:
        value = _lenient.decode(clean)
        return Element(value, json.dumps(value, ensure_ascii=False, allow_nan=False), raw)
    except RecursionError:
        return Element(_envelope(source), "", raw, "it is nested too deeply")
    except ValueError as error:
        return Element(_envelope(source), "", raw, f"it is not JSON: {str(error)[:200]}")


def _envelope(source: str) -> dict[str, Any]:
    """The eventId and type of an element that cannot be parsed, so that the cursor can pass it."""
    found: dict[str, Any] = {}
    depth = 0
    for match in _TOKEN.finditer(source):
        token = match[0]
        depth += (token in ("{", "[")) - (token in ("}", "]"))
        if depth == 1 and token in ('"eventId"', '"type"'):
            value = _SCALAR.match(source, match.end())
            if value:
                found[token[1:-1]] = json.loads(value[1])
    return found


def _replacement(match: re.Match[str]) -> str:
    return "\ufffd" if match[1] else match[0]


def _extent(text: str, at: int) -> int:
    """Where the element that starts at `at` ends; IndexError when the text ends first."""
    depth = 0
    for match in _TOKEN.finditer(text, at):
        token = match[0]
        if token in "{[":
            depth += 1
        elif token in "}]":
            if depth == 0:
                return match.start()
            depth -= 1
            if depth == 0:
                return match.end()
        elif token == "," and depth == 0:
            return match.start()
    raise IndexError


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, char: str) -> int:
    if text[at] != char:
        raise ValueError(f"{char} expected")
    return _skip_space(text, at + 1) if char != '"' else at + 1


def _what(body: bytes) -> str:
    if not body.strip():
        return "it is empty"
    if body.lstrip()[:1] == b"<":
        return "it is HTML"
    return f"{len(body)} bytes that are not one whole JSON object"
