"""The form of a store's files, without a file: results to bytes, and bytes to records, whatever is between them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.store import format as form
from cw.store.format import Encoder, Entry, Head, Scan


def entry(number, payload=b"payload", function="f", host="node1", status=0, classes=()):
    key = number.to_bytes(16, "little")
    return Entry(key, number, function, host, status, 1e9 + number, 0.5, b"args", payload, False, classes)


def encode(*entries):
    """The bytes of a segment with these, and where their records are in it."""
    encoder, data, positions = Encoder({}, {}), b"", []
    for each in entries:
        data += encoder.names(each, 0.0)
        positions.append(len(data))
        data += encoder.result(each, len(data), None)
    return data, positions


def reader(data):
    return lambda size, position: data[position : position + size]


def scan(data, start=0):
    return [(position, Head._make(head), bytes(body)) for position, head, body in Scan(reader(data), start)]


def numbers(data):
    return [head.number for _, head, _ in scan(data) if head.kind in form.RESULTS]


def test_names_are_written_once_and_before_what_refers_to_them():
    known = b"d" * 16, b"identity", 3
    data, _ = encode(entry(1, classes=[known]), entry(2, classes=[known]), entry(3, function="g", host=""))
    assert [(head.kind, body) for _, head, body in scan(data)] == [
        (form.FUNCTION, b"f"), (form.HOST, b"node1"), (form.CLASS, b"identity"), (form.RESULT, b"argspayload"),
        (form.RESULT, b"argspayload"), (form.FUNCTION, b"g"), (form.RESULT, b"argspayload"),
    ]  # fmt: skip
    assert [(head.function, head.host) for _, head, _ in scan(data) if head.kind == form.RESULT] == [
        (0, 1), (0, 1), (1, 0)
    ]  # fmt: skip


def test_a_scan_goes_on_where_the_last_one_ended():
    data, positions = encode(entry(1), entry(2), entry(3))
    assert [position for position, _, _ in scan(data, positions[1])] == positions[1:]
    over = Scan(reader(data), len(data))
    assert not list(over) and over.end == len(data)


@given(st.integers(0, 9), st.binary(max_size=300), st.integers(0, 60))
def test_what_lies_between_two_records_costs_neither(after, garbage, torn):
    data, positions = encode(*(entry(number) for number in range(10)))
    at = positions[after]
    found = numbers(data[:at] + garbage + data[at:])
    assert found == list(range(10))
    assert numbers(data[: len(data) - torn]) == list(range(10 - (torn > 0)))


def test_a_result_is_packed_by_an_earlier_one_that_it_has_much_in_common_with():
    common = random.Random(3).randbytes(2000)
    entries = [entry(number, common + b"%d" % number) for number in range(3)]
    data, positions = encode(*entries)
    kinds = [form.read_record(reader(data), position)[0].kind for position in positions]
    assert kinds == [form.RESULT, form.PACKED_RESULT, form.PACKED_RESULT]
    for packed, position in zip(entries[1:], positions[1:], strict=True):
        head, body = form.read_record(reader(data), position)
        written = body[head.args_size :]
        assert form.sample_position(written) == positions[0] and len(written) < 100
        assert form.unpack(written, entries[0].payload) == packed.payload


def test_a_record_with_one_wrong_byte_is_damaged():
    data, positions = encode(entry(1))
    for at in range(positions[0], len(data)):
        wrong = bytearray(data)
        wrong[at] ^= 1
        with pytest.raises(form.DAMAGE):
            form.read_record(reader(bytes(wrong)), positions[0])


@given(st.integers(0, 2**20), st.integers(0, 2**40 - 1), st.integers(0, 1))
def test_a_place_says_segment_position_and_whether_the_call_failed(segment, position, status):
    place = form.place_of(segment, position, status)
    assert form.split_place(place) == (segment, position)
    assert form.is_error(place) == bool(status)


def test_an_error_does_not_replace_a_result():
    index = {}
    for place in (form.place_of(0, 0, 1), form.place_of(0, 9, 0), form.place_of(0, 20, 1)):
        form.enter(index, b"key", place)
    assert index == {b"key": form.place_of(0, 9, 0)}
