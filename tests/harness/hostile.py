"""Hostile events: samples with some of their values replaced by hostile ones, or removed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.harness.samples import SAMPLES, event

FRAGMENTS: dict[str, bytes] = {
    "a NUL, escaped": rb'"a\u0000b"',
    "a NUL, raw": b'"a\0b"',
    "a backslash and u0000": rb'"a\\u0000b"',
    "half a pair, escaped": rb'"a\ud800b"',
    "the other half": rb'"\uDFFFb"',
    "two halves the wrong way round": rb'"\udc00\ud800"',
    "half a pair before a whole one": rb'"\ud83d\ud83d\ude00"',
    "a whole pair": rb'"\ud83d\ude00"',
    "half a pair, raw": b'"\xed\xa0\x80"',
    "bytes that are no UTF-8": b'"\xff\xfe\xc3"',
    "a control character": b'"a\x01\nb"',
    "an escape that is none": rb'"a\qb"',
    "quotes and brackets": rb'"]}\"[{\\"',
    "a megabyte": b'"' + "ёж ".encode() * 200_000 + b'"',
    "a megabyte without a space": b'"' + b"x" * 1_000_000 + b'"',
    "beyond 2**63": b"9223372036854775808",
    "beyond every int": b"9" * 5000,
    "beyond every double": b"1e400",
    "beyond every numeric": b"1e400000",
    "below every numeric": b"1e-400000",
    "a number with many places": b"0." + b"1" * 20_000,
    "NaN": b"NaN",
    "minus infinity": b"-Infinity",
    "a fraction": b"1764000000.75",
    "minus one": b"-1",
    "zero": b"0",
    "true": b"true",
    "null": b"null",
    "an empty string": b'""',
    "an empty list": b"[]",
    "an empty object": b"{}",
    "lists in lists": b"[" * 100 + b"]" * 100,
    "1,000 lists in lists": b"[" * 1000 + b"]" * 1000,
    "100,000 lists in lists": b"[" * 100_000 + b"]" * 100_000,
    "1,000 objects in objects": b'{"a":' * 1000 + b"1" + b"}" * 1000,
    "the same key twice": b'{"chatId": "a", "chatId": {"userId": 1}}',
    "an empty key": b'{"": 1}',
    "a NUL in a key": rb'{"\u0000": 1}',
    "a long id": b'"' + b"7" * 300 + b'"',
    "no JSON at all": b"undefined",
}


@dataclass(frozen=True)
class Hostile:
    """One element, and whether its eventId is untouched."""

    source: bytes
    numbered: bool
    what: str


def _paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    paths = [here] if here else []
    for key, inner in entries:
        paths += _paths(inner, (*here, key))
    return paths


@st.composite
def hostile_events(draw: st.DrawFn, event_id: int) -> Hostile:
    """A sample with that eventId, up to two of its values replaced or removed."""
    kind, payload = SAMPLES[draw(st.sampled_from(sorted(SAMPLES)))]
    element: Any = json.loads(json.dumps(event(event_id, kind, payload)))
    fragments: list[bytes] = []
    numbered, what = True, []
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(sorted(_paths(element), key=str)))
        numbered = numbered and path != ("eventId",)
        parent = element
        for key in path[:-1]:
            parent = parent[key]
        name = draw(st.sampled_from(["nothing", *FRAGMENTS]))
        what.append(f"{path}: {name}")
        if name == "nothing":
            del parent[path[-1]]
        else:
            parent[path[-1]] = f"@@{len(fragments)}@@"
            fragments.append(FRAGMENTS[name])
    source = json.dumps(element, ensure_ascii=draw(st.booleans())).encode()
    for number, fragment in enumerate(fragments):
        source = source.replace(b'"@@%d@@"' % number, fragment)
    return Hostile(source, numbered, "; ".join(what))
