"""The calls of a run on disk: what is read is what was written, as far as it was written whole."""

import os
import random

import pytest

from cw.errors import DetachError
from cw.net import messages as m
from cw.runs.calls import Asked, Awaited, CallEntry, CallRecord, CallsReader, CallsWriter, End, ObjectRecord
from cw.runs.folder import Description, RunFolder

CLASSES = ((b"d" * 16, b"i" * 16, 0),)
RECORDS = [
    ObjectRecord(1, m.ENVIRONMENT, (), b"here"),
    ObjectRecord(4, m.FUNCTION, (1,), b"code", "simulate"),
    CallRecord(1, 4, 0, b"one", (CallEntry(b"k" * 16, "simulate", b"(1,)"),), is_sent=True),
    CallRecord(
        2, 4, 0, b"chunk",
        (CallEntry(b"l" * 16, "simulate", b"(2,)", CLASSES, {b"D" * 16: b"class"}, 12.5),
         CallEntry(b"m" * 16, "simulate", b"", CLASSES, {b"D" * 16: b"class"})),
        is_chunk=True,
    ),
    CallRecord(3, 4, 1, b"", (CallEntry(b"n" * 16, "f", b"x"),), Asked(7, True, 3, 1, ("builtins.OSError",))),
    CallRecord(
        9, 4, 1, b"", (CallEntry(b"o" * 16, "f", b"x"),),
        waits_for=(Awaited(b"n" * 16), Awaited(b"", b""), Awaited(b"", b"v")),
    ),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(Description("run", ""))
    return folder


def write(folder, records=RECORDS):
    writer = CallsWriter(folder)
    for record in records:
        (writer.put_object if type(record) is ObjectRecord else writer.put_call)(record)
    return writer


def test_what_is_read_is_what_was_written(folder):
    writer = write(folder)
    writer.finish()
    writer.close()
    reader = CallsReader(folder)
    assert list(reader.read()) == [*RECORDS, End(5)] and reader.is_complete
    assert list(reader.read()) == []
    assert CallsReader(folder).keys() == {letter * 16 for letter in (b"k", b"l", b"m", b"n", b"o")}
    assert os.stat(folder.place("calls")).st_mode & 0o777 == 0o600


def test_a_reader_goes_on_while_calls_are_added(folder):
    reader = CallsReader(folder)
    assert list(reader.read()) == []
    writer = CallsWriter(folder)
    found = []
    for record in RECORDS:
        (writer.put_object if type(record) is ObjectRecord else writer.put_call)(record)
        writer.flush()
        found += reader.read()
    assert found == RECORDS and not reader.is_complete
    writer.close()


def test_a_reader_may_stop_in_the_middle(folder):
    write(folder).finish()
    reader = CallsReader(folder)
    taken = [next(iter(reader.read())) for _ in range(3)]
    assert taken + list(reader.read()) == [*RECORDS, End(5)]


def test_a_torn_end_is_passed_over_until_the_rest_comes(folder):
    write(folder).finish()
    path = folder.place("calls")
    with open(path, "rb") as file:
        whole = file.read()
    for end in [*range(0, len(whole), 37), len(whole) - 1]:
        with open(path, "wb") as file:
            file.write(whole[:end])
        reader = CallsReader(folder)
        first = list(reader.read())
        assert not reader.is_complete
        with open(path, "ab") as file:
            file.write(whole[end:])
        assert first + list(reader.read()) == [*RECORDS, End(5)]


def test_damage_is_found_and_named(folder):
    write(folder).finish()
    path = folder.place("calls")
    with open(path, "rb") as file:
        whole = file.read()
    chance = random.Random(7)
    for _ in range(50):
        place = chance.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        with open(path, "wb") as file:
            file.write(damaged)
        try:  # (a size that became larger looks like a torn end)
            found = list(CallsReader(folder).read())
        except DetachError as error:
            assert "calls is damaged" in str(error) and "run the script again" in str(error)
        else:
            assert found == [*RECORDS, End(5)][: len(found)] and len(found) < 7


def test_large_arguments_are_left_out_and_large_payloads_are_not(folder):
    large = bytes(range(256)) * 1024
    record = CallRecord(1, 4, 0, memoryview(large), (CallEntry(b"k" * 16, "f", large),))
    writer = write(folder, [record])
    writer.finish()
    (found, _) = CallsReader(folder).read()
    assert found.payload == large and found.entries[0].args == b""


def test_a_full_disk_is_an_error_with_the_path(folder, monkeypatch):
    writer = write(folder)
    monkeypatch.setattr(
        "cw.runs.calls.os.write", lambda *args: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(DetachError, match=r"run/calls: No space left"):
        writer.finish()
