"""What the jobs of a run print, in its folder: what is read is what was written, also while files change."""

import os

import pytest
from conftest import events

from cw.net import messages as m
from cw.output.printer import Piece
from cw.runs import output
from cw.runs.folder import RunFolder
from cw.runs.output import OutputReader, OutputWriter, Printed


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def test_lines_come_with_their_streams_and_labels(folder):
    writer = OutputWriter(folder)
    writer.put(Piece(m.STDOUT, b"one\ntwo\n", "[f #1 n] "))
    writer.put(Piece(m.STDOUT, b"three\n", "[f #1 n] "))
    writer.put(Piece(m.STDERR, b"tab\there, no end, \xff", "[f #1 n] "))
    writer.put(Piece(m.RECORDS, b"\n", ""))
    writer.put(Piece(m.STDOUT, b"", "[g #2 n] ", None, (7, 70)))
    assert writer.settle()
    assert list(OutputReader(folder).read()) == [
        Printed(m.STDOUT, "[f #1 n] ", b"one\ntwo\nthree\n"),
        Printed(m.STDERR, "[f #1 n] ", b"tab\there, no end, \xff\n"),
        Printed(m.RECORDS, "", b"\n"),
        Printed(m.STDOUT, "[g #2 n] ", "[… 7 lines (70 bytes) left out]\n".encode()),
    ]
    assert os.stat(folder.output).st_mode & 0o777 == 0o600
    writer.close()


def test_a_reader_goes_on_and_one_that_wants_new_lines_only_gets_them(folder):
    reader, writer = OutputReader(folder), OutputWriter(folder)
    assert list(reader.read()) == []
    writer.put(Piece(m.STDOUT, b"old\n"))
    late = OutputReader(folder, is_new_only=True)
    assert [each.data for each in reader.read()] == [b"old\n"]
    writer.put(Piece(m.STDOUT, b"new\n"))
    for each in (reader, late):
        assert [piece.data for piece in each.read()] == [b"new\n"]
        assert list(each.read()) == []
        each.close()
    writer.close()


def test_a_full_file_makes_room_for_the_next_and_readers_miss_nothing_of_it(folder, monkeypatch):
    monkeypatch.setattr(output, "FILE_BYTES", 100)
    reader, writer, seen = OutputReader(folder), OutputWriter(folder), b""
    for number in range(50):
        writer.put(Piece(m.STDOUT, b"line %d\n" % number))
        if number % 7 == 0:
            seen += b"".join(piece.data for piece in reader.read())
    seen += b"".join(piece.data for piece in reader.read())
    lines = seen.split(b"\n")[:-1]
    assert lines == sorted(lines, key=lambda line: int(line.split()[1]))
    assert lines[-1] == b"line 49" and len(lines) > 40  # (two files may be full between two looks)
    assert os.path.getsize(folder.output + ".1") < 200 and set(os.listdir(folder.path)) == {
        "output",
        "output.1",
    }
    kept = b"".join(piece.data for piece in OutputReader(folder).read())
    assert kept.endswith(b"line 49\n") and kept in seen
    writer.close()


def test_a_half_written_line_waits_for_its_end_and_a_damaged_one_is_passed_over(folder):
    reader = OutputReader(folder)
    with open(folder.output, "ab", buffering=0) as file:
        file.write(b"1\t[f] \tab")
        assert list(reader.read()) == []
        file.write(b"c\nnonsense\n9\tx\ty\n2\t\tz\n")
    assert list(reader.read()) == [Printed(1, "[f] ", b"abc\n"), Printed(2, "", b"z\n")]


def test_output_that_cannot_be_written_ends_nothing(tmp_path, caplog):
    writer = OutputWriter(RunFolder(tmp_path / "none"))
    for _ in range(3):
        writer.put(Piece(m.STDOUT, b"x\n"))
    assert events(caplog) == ["runs.output_lost"]
