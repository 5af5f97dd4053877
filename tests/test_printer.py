"""The printer: on files, pipes and other objects; with a reader that pauses; at the end and after a fork."""

import contextlib
import io
import os
import subprocess
import sys
import threading

import pytest
from conftest import events, wait_until
from programs import ROOT

from cw.output import printer as module
from cw.output.printer import Piece, Printer

NOTE = "[… %s left out: more than a client is sent]\n"


@pytest.fixture
def printer():
    made = Printer()
    yield made
    assert made.drain(10)


def test_it_writes_on_what_is_sys_stdout_now(printer, capsys):
    printer.put(Piece(1, "\u00e9\n".encode()))
    printer.put(Piece(2, b"error\n"))
    assert printer.settle()
    assert capsys.readouterr() == ("\u00e9\n", "error\n")
    with contextlib.redirect_stdout(io.StringIO()) as elsewhere:
        printer.put(Piece(1, b"there \xff\n", "[f #1] "))
        assert printer.settle()
    assert elsewhere.getvalue() == "there \ufffd\n" and capsys.readouterr() == ("", "")


def test_a_file_gets_the_bytes_as_they_are_after_what_the_program_has_printed(printer, tmp_path, monkeypatch):
    with open(tmp_path / "out", "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        print("before")
        printer.put(Piece(1, b"\xff\x00\r\n" * 10_000, "[f #1] "))
        assert printer.settle()
        print("after")
    assert (tmp_path / "out").read_bytes() == b"before\n" + b"\xff\x00\r\n" * 10_000 + b"after\n"


def test_notes_do_not_get_into_a_file(printer, capsys):
    printer.put(Piece(1, b"1,2\n", "[f #1] "))
    printer.put(Piece(1, b"", "[f #1] ", None, (9, 50)))
    assert printer.settle()
    assert capsys.readouterr() == ("1,2\n", f"[f #1] {NOTE % '9 lines (50 bytes)'}")


def test_jobs_of_which_each_has_a_line_left_out_do_not_have_a_note_each(printer, capsys):
    for number in range(2000):
        printer.put(Piece(1, b"", f"[f #{number}] ", None, (1, 4)))
        printer.put(Piece(1, b"1,2\n", f"[f #{number}] "))
        if number == 0:
            assert printer.settle()
    assert printer.drain(10)  # does not wait for the second one
    out, err = capsys.readouterr()
    assert out == "1,2\n" * 2000 and len(err.splitlines()) < 10
    assert err.startswith(f"[f #0] {NOTE % '1 line (4 bytes)'}")
    counts = [int(line.partition("[… ")[2].split()[0].replace(",", "")) for line in err.splitlines()]
    assert sum(counts) == 2000


def test_a_note_about_a_file_that_is_seen_on_a_terminal_has_its_label_once(printer, monkeypatch, tmp_path):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with open(tmp_path / "out", "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        printer.put(Piece(1, b"", "[f #1] ", None, (9, 50)))
        assert printer.drain(10)
    assert terminal.getvalue() == f"[f #1] {NOTE % '9 lines (50 bytes)'}"


def test_a_reader_that_pauses_holds_up_nothing_and_what_has_no_room_is_said(
    printer, monkeypatch, tmp_path, caplog
):
    monkeypatch.setattr(module, "QUEUE_BYTES", 300_000)
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.01)
    reading, writing = os.pipe()
    with open(reading, "rb") as reader, open(writing, "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        for number in range(10):
            printer.put(Piece(1, b"%d" % number * 99_999 + b"\n"))
            assert not printer.settle()
        got = []
        thread = threading.Thread(target=lambda: got.append(reader.read()))
        thread.start()
        assert printer.drain(10)
        printer.put(Piece(1, b"again\n"))
        assert printer.settle()
        file.close()
        thread.join()
    assert got == [b"0" * 99_999 + b"\n" + b"1" * 99_999 + b"\n" + b"2" * 99_999 + b"\nagain\n"]
    assert events(caplog) == ["client.output_left_out"] and caplog.records[0].args == (7, 700_000)


def test_a_stream_that_fails_is_reported_once(printer, monkeypatch, caplog):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    for _ in range(3):
        printer.put(Piece(1, b"a\n"))
        assert printer.settle()
    assert events(caplog) == ["client.output_not_shown"]


def test_without_a_stream_lines_are_dropped(printer, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    printer.put(Piece(1, b"a\n"))
    assert printer.settle()


def test_its_thread_ends_when_nothing_comes(printer, monkeypatch, capsys):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)
    for _ in range(3):
        printer.put(Piece(1, b"a\n"))
        wait_until(lambda: printer._thread is None)
    assert capsys.readouterr().out == "a\n" * 3


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_labels_and_equal_lines_are_counted(printer, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    for job in range(10):
        printer.put(Piece(1, b"hot\n", f"[f #{job}] "))
    printer.put(Piece(1, b"", "[f #3] ", None, (2, 8)))
    for _ in range(5):
        printer.put(Piece(1, b"cold\n", "[f #4] "))
    assert printer.drain(10)  # does not wait for the count
    assert terminal.getvalue() == (
        "[f #0] hot\n[f #1] hot\n[f #2] hot\n[… the same line 7 more times]\n"
        + f"[f #3] {NOTE % '2 lines (8 bytes)'}"
        + "[f #4] cold\n" * 3
        + "[… the same line 2 more times]\n"
    )


def test_a_forked_child_is_silent():
    code = """if True:
    import os, sys
    from cw.output.printer import Piece, printer
    printer.put(Piece(1, b"one\\n"))
    pid = os.fork()
    if pid == 0:
        assert printer.drain(10)
        printer.put(Piece(2, b"child\\n"))
        assert printer.drain(10)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0 and printer.drain(10)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == (b"one\n", b"child\n", 0)
