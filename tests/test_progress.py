"""The progress bar on a terminal: what is printed meanwhile, and results from a store."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from programs import ROOT

from cw.client.maps.progress import Counts, Progress
from cw.output import streams

pytest.importorskip("tqdm")

WIDTH = 100


def on_a_terminal(directory, code, **environment):
    """Run a script whose output is a terminal. Returns what it has written, and the lines that are seen at the end."""
    (directory / "program.py").write_text(code)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    program = subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    written = b""
    try:
        while piece := os.read(master, 65536):
            written += piece
    except OSError:  # all its processes have closed the terminal
        pass
    finally:
        os.close(master)
        program.wait()
    return written.decode(), seen(written.decode())


def seen(text):
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[A|\r|\n|[^\r\n\x1b]+", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[A":
            row -= 1
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


def test_what_is_printed_appears_above_the_bar(cluster, tmp_path):
    written, lines = on_a_terminal(tmp_path, """if True:
    import sys, time, cw
    def nap(n):
        time.sleep(0.05)
        return n
    before = sys.stdout, sys.stderr
    for n in cw.map(nap, range(20), progress=True):
        if n == 3:
            print("a line")
        if n == 5:
            print("half", end="", flush=True)
            time.sleep(0.5)  # the bar would come
            print(" and half")
        if n == 8:
            print("an error", file=sys.stderr)
            assert sys.stdout.isatty() and sys.stdout.encoding
        if n == 15:
            print("no end", end="")
    assert (sys.stdout, sys.stderr) == before
    print("after")
    """, CW_MASTER=cluster.master)  # fmt: skip
    assert lines[:4] == ["a line", "half and half", "an error", "no end"]
    assert "100%" in lines[4] and "20/20" in lines[4] and lines[5] == "after"
    assert written.count("\r") > 10


def test_sentences_of_the_log_appear_above_the_bar(cluster, tmp_path):
    _, lines = on_a_terminal(tmp_path, """if True:
    import logging, time, cw
    def nap(n):
        time.sleep(0.05)
        return n
    logging.basicConfig(format="%(message)s", level="INFO")
    for n in cw.map(nap, range(20), progress=True):
        if n in (5, 10):
            logging.info("line of the log")
    logging.info("after")
    """, CW_MASTER=cluster.master)  # fmt: skip
    assert lines[:2] == ["line of the log"] * 2 and "20/20" in lines[2] and lines[3] == "after"


def test_stored_results_count_apart(cluster, tmp_path):
    code = """if True:
    import time, cw
    def nap(n):
        time.sleep(0.02)
    for _ in cw.map(nap, range(%d), progress=True, store="s"): pass
    """
    for number in (100, 120):
        _, lines = on_a_terminal(tmp_path, code % number, CW_MASTER=cluster.master)
    (bar,) = [line for line in lines if "%" in line]
    assert "120/120" in bar and "stored=100" in bar
    rate = re.search(r"([\d.]+)(job/s|s/job)", bar)
    jobs_per_second = float(rate[1]) if rate[2] == "job/s" else 1 / float(rate[1])
    assert jobs_per_second < 110, bar  # two slots, 0.02 s for each that runs


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_on_its_way_when_the_bar_comes_appears_above_it(monkeypatch):
    screen, before = Terminal(), Terminal()
    before.write = screen.write  # stdout and stderr are one terminal
    monkeypatch.setattr(sys, "stdout", before)
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress(lambda: Counts(20, 0, 0, 0), "always"):
        streams.write_text(before, "a line\n")
    (line,) = [line for line in screen.getvalue().split("\n") if "a line" in line]
    assert "0/20" in line and line.rpartition("\r")[2] == "a line"
