from __future__ import annotations

import contextlib
import functools
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.hostile import FRAGMENTS
from tests.harness.samples import body, joined, message
from tests.harness.scale import scaled
from vkteams_daemon.botapi.body import MAX_DEPTH, Element, split
from vkteams_daemon.errors import ApiProtocolError

EXAMPLES = scaled("examples of a property of events and messages", full=300, quick=100)


def _elements(*sources: bytes) -> list[Element]:
    elements = split(joined(sources)).elements
    assert elements is not None
    return elements


def _nested(depth: int) -> bytes:
    return b'{"eventId":5,"type":"x","payload":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_an_answer_is_split_into_fields_and_elements() -> None:
    answer = split(body(message(1), message(2)))
    assert answer.fields == {"ok": True}
    assert answer.elements is not None
    assert [element.value["eventId"] for element in answer.elements] == [1, 2]
    assert all(element.raw is None and element.error is None for element in answer.elements)
    assert [json.loads(element.json) for element in answer.elements] == [message(1), message(2)]


@pytest.mark.parametrize(
    "source",
    [
        b'{"events":[]}', b' {"ok":true , "events" : [ ] } \n', b'\xef\xbb\xbf{"events":[]}', b'{"events":[],}',
        b'{"events":[],"odd":[NaN,1e999,{"a":"\\ud800"}]}', b'{"deep":' + b"[" * 5000 + b"]" * 5000 + b',"events":[]}',
    ],
)  # fmt: skip
def test_an_answer_without_events(source: bytes) -> None:
    assert split(source).elements == []


def test_elements_are_none_without_an_array_of_events() -> None:
    for source in (b"{}", b'{"ok":true}', b'{"events":null}', b'{"events":{"a":1}}'):
        assert split(source).elements is None


def test_a_second_array_adds_to_the_first() -> None:
    elements = split(b'{"events":[1],"events":[2]}').elements
    assert elements is not None
    assert [element.value for element in elements] == [1, 2]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "it is empty"), (b" \n", "it is empty"), (b"<html>502 Bad Gateway</html>", "it is HTML"),
        (b"[]", "2 bytes that are not"), (b"null", "4 bytes"), (b"{", "1 bytes"), (b'{"ok":true', "10 bytes"),
        (b'{"events":[{"eventId":1}', "24 bytes"), (b'{"events":[{"eventId":1}]', "25 bytes"),
        (b'{"events":[{"eventId":1} {"eventId":2}]}', "40 bytes"), (b'{"events":[{"a":1]}]}', "21 bytes"),
        (b'{"events":["abc', "15 bytes"), (b'{"events":["abc\\', "16 bytes"), (b"\x1f\x8b\x08\0\0", "5 bytes"),
        (b'{"events":[]}{}', "goes on after its end"), (b'{"events":[]} trailing', "goes on after its end"),
    ],
)  # fmt: skip
def test_an_incomplete_answer_is_refused(source: bytes, message: str) -> None:
    with pytest.raises(ApiProtocolError, match=message):
        split(source)


@settings(max_examples=EXAMPLES)
@given(st.data())
def test_a_cut_off_answer_is_refused_wherever_it_is_cut(data: st.DataObject) -> None:
    source = body(message(1, 'a "quoted" \\ word'), message(2), message(3))
    cut = data.draw(st.integers(0, len(source) - 1))
    with pytest.raises(ApiProtocolError):
        split(source[:cut])


def test_between_two_commas_is_no_element() -> None:
    elements = split(b'{"events": [,{"a": 1}, ,{"a": 2},]}').elements
    assert elements is not None
    assert [element.value for element in elements] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("name", FRAGMENTS)
def test_batch_mates_of_a_hostile_element_are_untouched(name: str) -> None:
    good = json.dumps(message(1)).encode()
    first, bad, last = _elements(good, FRAGMENTS[name], good)
    assert first == last == _elements(good)[0]
    assert bad == _elements(FRAGMENTS[name])[0]
    if bad.json:
        json.loads(bad.json, parse_constant=lambda name: pytest.fail(name))
        assert "\0" not in bad.json
        assert not any("\ud800" <= char <= "\udfff" for char in bad.json)
    else:
        assert bad.error is not None
        assert bad.raw == FRAGMENTS[name]


@pytest.mark.parametrize(
    ("source", "value"),
    [
        (rb'"a\u0000b"', "a\ufffdb"), (b'"a\0b"', "a\ufffdb"), (rb'"\ud800"', "\ufffd"), (rb'"\uDFFFx"', "\ufffdx"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd😀"), (b'"\xff"', "\ufffd"), (b'"\xed\xa0\x80"', "\ufffd\ufffd\ufffd"),
        (b'"a\x01\tb"', "a\x01\tb"), (b"[NaN,-Infinity,1e400]", [None, None, None]),
    ],
)  # fmt: skip
def test_values_that_jsonb_refuses_are_replaced_and_the_bytes_are_kept(source: bytes, value: object) -> None:
    (element,) = _elements(source)
    assert (element.value, json.loads(element.json), element.raw, element.error) == (value, value, source, None)


@pytest.mark.parametrize("source", [rb'"\ud83d\ude00"', rb'"a\\u0000b"', rb'"\\\\ud800"', b"1.10", b'{"a":1,"a":2}'])
def test_values_that_jsonb_accepts_stay_unchanged(source: bytes) -> None:
    (element,) = _elements(source)
    assert (element.json, element.raw, element.error) == (source.decode(), None, None)
    assert element.value == json.loads(source)


@pytest.mark.parametrize(
    ("source", "payload"),
    [
        (b'{"eventId":1,"payload":{"a":1.10},"type":"x"}', '{"a":1.10}'), (b'{ "payload" :\t[1, 2] }', "[1, 2]"),
        (b'{"payload":1,"x":{"payload":2},"payload":{"payload":3}}', '{"payload":3}'), (b'{"payload":null}', "null"),
        (rb'{"pay\u006coad":"a\ud800"}', '"a\ufffd"'), (b'{"payload":{"a":NaN}}', '{"a": null}'),
        (b"{}", None), (b'{"x":{"payload":1}}', None), (b'["payload",1]', None), (b"1", None),
    ],
)  # fmt: skip
def test_the_payload_is_the_text_that_came(source: bytes, payload: str | None) -> None:
    (element,) = _elements(source)
    assert (element.payload, element.error) == (payload, None)


def test_the_limit_of_depth_does_not_depend_on_the_stack() -> None:
    """An event must be read in the same way, however deep the stack of the caller is."""
    whole, deep = _elements(_nested(MAX_DEPTH), _nested(MAX_DEPTH + 1))
    assert (whole.error, deep.error) == (None, "it is nested too deeply")
    assert deep.value == {"eventId": 5, "type": "x"}
    wide = b"[" + b",".join([b"[]"] * 10_000) + b"]"
    assert _elements(wide)[0].error is None


@pytest.mark.parametrize(
    ("start", "value"),
    [
        (b'"eventId": 7, "type": "newMessage"', {"eventId": 7, "type": "newMessage"}),
        (b'"type":"eventId","eventId"\n:\t9223372036854775807', {"eventId": 2**63 - 1, "type": "eventId"}),
        (b'"payload":{"eventId":1},"eventId":2', {"eventId": 2}),
        (b'"a":["eventId"],"b":"eventId","eventId":3', {"eventId": 3}),
        (b'"eventId":10000000000000000000000', {}),  # never its first 19 digits
        (b'"eventId":15e3', {}), (b'"eventId":1.5', {}), (b'"eventId":007', {}), (b'"eventId":-7', {}),
        (b'"eventId":"7"', {"eventId": "7"}), (b'"eventId":null', {}), (b'"type":"\\u0000"', {}),
    ],
)  # fmt: skip
def test_the_id_of_an_element_that_cannot_be_parsed(start: bytes, value: dict[str, object]) -> None:
    (element,) = _elements(b"{" + start + b',"x":' + b"[" * 2000 + b"]" * 2000 + b"}")
    assert element.value == value


@functools.cache
def _cpu_seconds(source: bytes) -> float:
    """The CPU time of this thread for one split: the least of three, so that load on the machine counts little."""
    seconds = []
    for _ in range(3):
        began = time.thread_time()
        with contextlib.suppress(ApiProtocolError):
            split(source)
        seconds.append(time.thread_time() - began)
    return min(seconds)


_MANY = 1000
_LONG = b'"' + b"x " * 2**19 + b'"'


@pytest.mark.timeout(60)
@pytest.mark.parametrize("element", [b'"\\q"', b"x", b"NaN", b'{"a":"\\u0000"}', b'{"a":NaN}', b'{"":0}'], ids=str)
def test_the_work_for_an_element_does_not_depend_on_the_length_of_the_answer(element: bytes) -> None:
    """A scan from the beginning or to the end of the answer, for each element, would take 20 times as long."""
    elements = b",".join([element] * _MANY)
    apart = _cpu_seconds(b'{"events":[' + elements + b"]}") + 2 * _cpu_seconds(b'{"events":[' + _LONG + b"]}")
    together = b'{"events":[' + b",".join([_LONG, elements, _LONG]) + b"]}"
    assert len(split(together).elements or ()) == _MANY + 2
    assert _cpu_seconds(together) < 4 * apart


@pytest.mark.timeout(60)
@pytest.mark.parametrize("field", [b'"a":x', b'"a":NaN', b'"events":[1]', b'"a":{"b":x}'], ids=str)
def test_the_work_for_a_field_does_not_depend_on_the_length_of_the_answer(field: bytes) -> None:
    fields, long = b",".join([field] * _MANY), b'"long":' + _LONG
    apart = _cpu_seconds(b"{" + fields + b"}") + 2 * _cpu_seconds(b"{" + long + b"}")
    together = b"{" + b",".join([long, fields, long, b'"ok":false,"events":[1]']) + b"}"
    answer = split(together)
    assert answer.fields["ok"] is False
    assert answer.elements and answer.elements[-1].value == 1
    assert _cpu_seconds(together) < 4 * apart


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("start", "piece"),
    [(b"", b'"\\"\\"\\"'), (b"", b'{"a":"\\"'), (b"", b"["), (b"", b'{"a":'), (b"", b" "), (b'"', b'\\"')],
    ids=str,
)
def test_the_work_for_an_answer_without_an_end_is_linear_in_its_length(start: bytes, piece: bytes) -> None:
    """Eight times the length may take 24 times as long, not 64 times."""
    short, long = (b'{"events":[' + start + piece * (size // len(piece)) for size in (2**16, 2**19))
    with pytest.raises(ApiProtocolError):
        split(long)
    assert _cpu_seconds(long) < 24 * _cpu_seconds(short) + 0.05
