"""Splits the body of an events/get answer into its events, so that one hostile event does not damage its batch.

The C scanner reads the array element by element. When it fails on an element (depth, NaN, an endless number), a scan
without recursion finds where the element ends, and only that element is unreadable. The work is linear in the length
of the body, for every body.
"""

from __future__ import annotations

import json
import math
import re
from json.decoder import scanstring  # type: ignore[attr-defined]  # the stubs leave it out
from typing import Any

from msgspec import Struct

from vkteams_daemon.errors import ApiProtocolError

MAX_DEPTH = 128  # levels; real events have 10, and a much deeper one overflows the stack when it is written again

_SPACE = re.compile(r"[ \t\n\r]*")
# A string without an end extends to the end of the text. Otherwise the search would start again at each quote in it.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
_ESCAPE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u([dD][89a-fA-F][0-9a-fA-F]{2}|0000)|\\.", re.DOTALL
)
_SCALAR = re.compile(r'\s*:\s*([1-9][0-9]{0,18}(?![0-9.eE+-])|"[\w.-]{1,200}")')
_SUSPECT_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_UNSTORABLE = re.compile(r"[\0\ud800-\udfff]")


def _finite(number: str) -> float:
    """A number that is finite as a double.

    Raises:
        ValueError: it is NaN or infinite. Python reads and writes these, but JSON and jsonb have no such numbers.
    """
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is no number")
    return value


def _finite_or_none(number: str) -> float | None:
    value = float(number)
    return value if math.isfinite(value) else None


_strict = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)
_lenient = json.JSONDecoder(strict=False, parse_constant=_finite_or_none, parse_float=_finite_or_none)


class Element(Struct, frozen=True, gc=False):
    """One element of the `events` array.

    Attributes:
        value: the parsed element. With an error, only its eventId and type, as far as they can be read.
        json: text that jsonb accepts, equal to `value`; "" with an error.
        payload: the part of `json` that is the value of its `payload`; None if it has none.
        raw: the element's bytes as received, if `json` differs from them; otherwise None.
        error: why the element cannot be read, or None.
    """

    value: Any
    json: str
    payload: str | None = None
    raw: bytes | None = None
    error: str | None = None


class Body(Struct, frozen=True, gc=False):
    """An answer: the elements of `events` (None if it has no such array) and the other fields (`ok`, …)."""

    fields: dict[str, Any]
    elements: list[Element] | None


def split(body: bytes) -> Body:
    """Read an answer of events/get.

    Raises:
        ApiProtocolError: it is not one complete JSON object. No part of it may be used.
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        # This keeps bytes that are not UTF-8, so that `raw` can have the bytes as received.
        text = body.decode("utf-8", "surrogateescape")
    fields: dict[str, Any] = {}
    elements: list[Element] | None = None
    try:
        at = _expect(text, _skip_space(text, 0), "{")
        while text[at] != "}":
            key, at = scanstring(text, _expect(text, at, '"'), False)
            at = _expect(text, _skip_space(text, at), ":")
            if key == "events" and text[at] == "[":
                # The events of a second array are added to those of the first.
                elements = elements or []
                at = _split_array(text, at + 1, elements)
            else:
                at = _field(text, at, key, fields)
            at = _skip_space(text, at)
            if text[at] == ",":
                at = _skip_space(text, at + 1)
        at = _skip_space(text, at + 1)
    except (IndexError, ValueError) as error:
        raise ApiProtocolError(f"the answer to events/get cannot be read ({_describe(body)})") from error
    if at != len(text):
        raise ApiProtocolError("the answer to events/get goes on after its end")
    return Body(fields, elements)


def _field(text: str, at: int, key: str, fields: dict[str, Any]) -> int:
    """Read one top-level field into `fields`, or skip it if it cannot be read; returns where it ends."""
    end = _extent(text, at)
    try:
        # The scanner gets a slice: for an error it counts the lines of all the text before.
        fields[key], length = _lenient.raw_decode(text[at:end])
    except (ValueError, RecursionError):
        return end
    return at + length


def _split_array(text: str, at: int, elements: list[Element]) -> int:
    """Append the elements of the array whose first one starts at `at`; return where the array ends."""
    sliced = False
    at = _skip_space(text, at)
    while text[at] != "]":
        if sliced:
            end = _extent(text, at)
            if end > at:  # two commas have nothing between them that could be kept
                elements.append(_element(text[at:end].rstrip(" \t\n\r")))
        else:
            try:
                value, payload, end = _value(text, at)
            except (ValueError, IndexError, RecursionError):
                # For an error the scanner counts the lines of all the text before: from now on it gets slices.
                sliced = True
                continue
            source = text[at:end]
            storable = not _suspect(source) and not _deep(source)
            elements.append(Element(value, source, payload) if storable else _element(source))
        at = _skip_space(text, end)
        if text[at] == ",":
            at = _skip_space(text, at + 1)
        elif text[at] != "]":
            raise ValueError("no comma between events")
    return at + 1


def _value(text: str, at: int) -> tuple[Any, str | None, int]:
    """The value that starts at `at`; the text of its `payload`, if it is an object that has one; and its end."""
    if text[at] != "{":
        value, end = _strict.raw_decode(text, at)
        return value, None, end
    fields: dict[str, Any] = {}
    payload = None
    at = _skip_space(text, at + 1)
    while text[at] != "}":
        key, at = scanstring(text, _expect(text, at, '"'), True)
        start = _expect(text, _skip_space(text, at), ":")
        fields[key], at = _strict.raw_decode(text, start)
        if key == "payload":
            payload = text[start:at]
        at = _skip_space(text, at)
        if text[at] == ",":
            at = _skip_space(text, at + 1)
            if text[at] != '"':
                raise ValueError("no key after a comma")
        elif text[at] != "}":
            raise ValueError("no comma between fields")
    return fields, payload, at + 1


def _element(source: str) -> Element:
    """An element whose text jsonb may refuse: repaired where possible, with the bytes as received."""
    raw = source.encode("utf-8", "surrogateescape")
    if _deep(source):
        return Element(_envelope(source), "", None, raw, "it is nested too deeply")
    clean = _UNSTORABLE.sub("\ufffd", _ESCAPE.sub(_replacement, source)) if _suspect(source) else source
    try:
        value, payload, end = _value(clean, 0)
        if end == len(clean):
            return Element(value, clean, payload, raw if clean != source else None)
    except (ValueError, IndexError):
        pass  # control characters and infinite numbers are not JSON, but the lenient decoder repairs them
    try:
        repaired = json.dumps(_lenient.decode(clean), ensure_ascii=False, allow_nan=False)
        value, payload, _ = _value(repaired, 0)
        return Element(value, repaired, payload, raw)
    except ValueError as error:
        return Element(_envelope(source), "", None, raw, f"it cannot be read as JSON: {str(error)[:200]}")


def _suspect(source: str) -> bool:
    """Whether the element may have characters that jsonb refuses, as they are or escaped."""
    if "\\u" in source and _SUSPECT_ESCAPE.search(source):
        return True
    return "\0" in source if source.isascii() else _UNSTORABLE.search(source) is not None


def _deep(source: str) -> bool:
    """Whether the element is nested deeper than MAX_DEPTH."""
    if source.count("{") + source.count("[") <= MAX_DEPTH:
        return False
    depth = 0
    for match in _TOKEN.finditer(source):
        depth += (match[0] in ("{", "[")) - (match[0] in ("}", "]"))
        if depth > MAX_DEPTH:
            return True
    return False


def _envelope(source: str) -> dict[str, Any]:
    """The eventId and type of an element that cannot be parsed, so that the cursor can move past it."""
    fields: dict[str, Any] = {}
    depth = 0
    for match in _TOKEN.finditer(source):
        token = match[0]
        depth += (token in ("{", "[")) - (token in ("}", "]"))
        if depth == 1 and token in ('"eventId"', '"type"'):
            value = _SCALAR.match(source, match.end())
            if value:
                fields[token[1:-1]] = json.loads(value[1])
    return fields


def _replacement(match: re.Match[str]) -> str:
    return "\ufffd" if match[1] else match[0]


def _extent(text: str, at: int) -> int:
    """Where the element that starts at `at` ends.

    Raises:
        IndexError: the text ends first.
    """
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
    if at < len(text) and text[at] > " ":
        return at
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, char: str) -> int:
    if text[at] != char:
        raise ValueError(f"{char} expected")
    return _skip_space(text, at + 1) if char != '"' else at + 1


def _describe(body: bytes) -> str:
    if not body.strip():
        return "it is empty"
    if body.lstrip()[:1] == b"<":
        return "it is HTML"
    return f"{len(body)} bytes that are not one whole JSON object"
