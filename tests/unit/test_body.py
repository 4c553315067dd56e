from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.hostile import FRAGMENTS
from tests.harness.samples import body, joined, message
from vkteams_daemon.botapi.body import MAX_DEPTH, Element, split
from vkteams_daemon.errors import ApiProtocolError


def _elements(*sources: bytes) -> list[Element]:
    found = split(joined(sources)).elements
    assert found is not None
    return found


def _nested(depth: int) -> bytes:
    return b'{"eventId":5,"type":"x","payload":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_an_answer_in_its_parts() -> None:
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
def test_no_events(source: bytes) -> None:
    assert split(source).elements == []


def test_no_array_of_events() -> None:
    for source in (b"{}", b'{"ok":true}', b'{"events":null}', b'{"events":{"a":1}}'):
        assert split(source).elements is None


def test_a_second_array_adds_to_the_first() -> None:
    found = split(b'{"events":[1],"events":[2]}').elements
    assert found is not None
    assert [element.value for element in found] == [1, 2]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"", "it is empty"), (b" \n", "it is empty"), (b"<html>502 Bad Gateway</html>", "it is HTML"),
        (b"[]", "2 bytes that are not"), (b"null", "4 bytes"), (b"{", "1 bytes"), (b'{"ok":true', "10 bytes"),
        (b'{"events":[{"eventId":1}', "24 bytes"), (b'{"events":[{"eventId":1}]', "25 bytes"),
        (b'{"events":[{"eventId":1} {"eventId":2}]}', "40 bytes"), (b'{"events":[{"a":1]}]}', "21 bytes"),
        (b'{"events":["abc', "15 bytes"), (b'{"events":["abc\\', "16 bytes"), (b"\x1f\x8b\x08\0\0", "5 bytes"),
        (b'{"events":[]}{}', "goes on after its end"), (b'{"events":[]} trailing', "goes on after its end"),
    ],
)  # fmt: skip
def test_what_is_not_one_whole_answer_is_refused(source: bytes, said: str) -> None:
    with pytest.raises(ApiProtocolError, match=said):
        split(source)


@settings(max_examples=200)
@given(st.data())
def test_a_cut_off_answer_is_refused_wherever_it_is_cut(data: st.DataObject) -> None:
    source = body(message(1, 'a "quoted" \\ word'), message(2), message(3))
    cut = data.draw(st.integers(0, len(source) - 1))
    with pytest.raises(ApiProtocolError):
        split(source[:cut])


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
def test_what_jsonb_cannot_hold_is_mended_and_its_bytes_are_kept(source: bytes, value: object) -> None:
    (element,) = _elements(source)
    assert (element.value, json.loads(element.json), element.raw, element.error) == (value, value, source, None)


@pytest.mark.parametrize("source", [rb'"\ud83d\ude00"', rb'"a\\u0000b"', rb'"\\\\ud800"', b"1.10", b'{"a":1,"a":2}'])
def test_what_jsonb_can_hold_stays_as_it_came(source: bytes) -> None:
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
def test_the_payload_as_it_came(source: bytes, payload: str | None) -> None:
    (element,) = _elements(source)
    assert (element.payload, element.error) == (payload, None)


def test_depth_is_counted_not_tried() -> None:
    """The same event must be read in the same way, however deep the stack of whoever reads it is."""
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


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("many", "expected"),
    [
        (b'"\\q",', None), (b"x,", None), (b"NaN,", None), (b'{"a":"\\u0000"},', None), (b'{"a":NaN},', None),
        (b'"\\"\\"\\"', ApiProtocolError), (b'{"a":"\\"', ApiProtocolError), (b"[", ApiProtocolError),
        (b'{"a":', ApiProtocolError), (b" ", None), (b'{"":0},', None),
    ],
    ids=str,
)  # fmt: skip
def test_the_work_is_linear_in_the_length(many: bytes, expected: type[Exception] | None) -> None:
    """At these sizes, anything quadratic takes minutes to hours."""
    source = b'{"events":[' + many * ((2**23 if expected else 2**20) // len(many))
    if expected:
        with pytest.raises(expected):
            split(source)
    else:
        assert split(source + b"1]}").elements


@pytest.mark.timeout(60)
def test_a_string_without_an_end_is_read_once() -> None:
    with pytest.raises(ApiProtocolError):
        split(b'{"events":["' + b'\\"' * 2**20)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("many", [b'"a":x,', b'"a":NaN,', b'"events":[1],', b'"a":{"b":x},'], ids=str)
def test_fields_that_cannot_be_read_and_many_arrays_are_read_once(many: bytes) -> None:
    body = split(b"{" + many * (2**20 // len(many)) + b'"ok":false,"events":[1]}')
    assert body.fields["ok"] is False
    assert body.elements and body.elements[-1].value == 1
