"""The form of a store's files, without a file: results to bytes, and bytes to records, whatever is between them."""

import random
import struct
import zlib

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
    encoded = Encoder({}, {}, {}).encode(entries, lambda entry: b"", 3, 0)
    assert encoded.keys == [entry.key for entry in entries]
    assert {form.split_place(place)[0] for place in encoded.places} == {3}
    return b"".join(encoded.parts), [form.split_place(place)[1] for place in encoded.places]


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


def test_a_definition_is_written_once_and_before_what_refers_to_it():
    first, second = (
        {b"1" * 16: b"class A", b"2" * 16: b"class B"},
        {b"2" * 16: b"class B", b"3" * 16: b"class C"},
    )
    entries = [entry(1)._replace(definitions=first), entry(2)._replace(definitions=second)]
    found = [(head.kind, head.key, body) for _, head, body in scan(encode(*entries)[0])]
    assert [each for each in found if each[0] not in (form.FUNCTION, form.HOST)] == [
        (form.DEFINITION, b"1" * 16, b"class A"), (form.DEFINITION, b"2" * 16, b"class B"),
        (form.RESULT, entries[0].key, b"argspayload"), (form.DEFINITION, b"3" * 16, b"class C"),
        (form.RESULT, entries[1].key, b"argspayload"),
    ]  # fmt: skip


def test_a_result_that_version_1_has_packed_is_what_it_was():
    sample = random.Random(3).randbytes(2000)
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=sample)
    packed = (1234).to_bytes(8, "little") + packer.compress(sample + b"end") + packer.flush()
    assert len(packed) < 100 and form.sample_position(packed) == 1234
    assert form.unpack(packed, sample) == sample + b"end"


def test_a_record_with_one_wrong_byte_is_damaged():
    data, positions = encode(entry(1))
    for at in range(positions[0], len(data)):
        wrong = bytearray(data)
        wrong[at] ^= 1
        with pytest.raises(form.DAMAGE):
            form.read_record(reader(bytes(wrong)), positions[0])


def test_the_bytes_of_a_result_are_those_that_the_format_names():
    data, (position,) = encode(entry(5, status=1))
    rest = struct.pack("<I BB H I I Q d f 16s", 11, 1, 1, 1, 0, 4, 5, 1e9 + 5, 0.5, bytes([5]) + bytes(15))
    rest += b"args" + b"payload"
    assert data[position:] == b"\xc5cw\n" + struct.pack("<I", zlib.crc32(rest)) + rest


def test_a_large_result_has_a_reference_in_its_place_and_large_arguments_are_left_out():
    large, small = entry(1, bytes(form.LARGE + 1)), entry(2)._replace(args=bytes(form.ARGUMENTS_KEPT + 1))
    written = []

    def write_large(*what):
        written.append(what)
        return b"a reference"

    encoded = Encoder({}, {}, {}).encode([large, small], write_large, 0, 100)
    data = bytes(100) + b"".join(encoded.parts)
    first, second = (form.split_place(place)[1] for place in encoded.places)
    head, body = form.read_record(reader(data), first)
    assert (head.kind, body) == (form.LARGE_RESULT, b"args" + b"a reference") and written == [
        (large.key, large.payload, False)
    ]
    head, body = form.read_record(reader(data), second)
    assert (head.kind, head.args_size, body) == (form.RESULT, 0, b"payload")


def test_what_is_encoded_says_whether_a_call_has_failed_and_whether_it_must_be_on_the_disk():
    def said(*entries):
        encoded = Encoder({}, {}, {}).encode(entries, lambda entry: b"", 0, 0)
        return encoded.has_errors, encoded.is_durable, [place & 1 for place in encoded.places]

    assert said(entry(1), entry(2)) == (False, False, [0, 0])
    assert said(entry(1), entry(2, status=1), entry(3)._replace(is_durable=True)) == (True, True, [0, 1, 0])


@given(st.integers(0, 2**20), st.integers(0, 2**40 - 1), st.integers(0, 1))
def test_a_place_says_segment_position_and_whether_the_call_failed(segment, position, status):
    place = form.place_of(segment, position, status)
    assert form.split_place(place) == (segment, position)
    assert place & 1 == bool(status)


def test_an_error_does_not_replace_a_result():
    index = {}
    for place in (form.place_of(0, 0, 1), form.place_of(0, 9, 0), form.place_of(0, 20, 1)):
        form.enter(index, b"key", place)
    assert index == {b"key": form.place_of(0, 9, 0)}
