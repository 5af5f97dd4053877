"""What jobs print into the worker's log: whole lines with a label, bounded, and never in the way of a job."""

import os

import pytest

from cw.net.messages import STDERR, STDOUT
from cw.worker.output import job_log
from cw.worker.output.job_log import DAY, LINE_BYTES, LOG_BYTES, WAITING_BYTES, JobLog


@pytest.fixture
def file(tmp_path):
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield fd
    os.close(fd)


def text(fd):
    return os.pread(fd, 10**9, 0)


def test_lines_are_whole_and_say_whose_they_are(file):
    log = JobLog(file, 0.0)
    log.add(1, STDOUT, b"[job 1] ", b"first\nsec", 0.0)
    log.add(2, STDOUT, b"[job 2] ", b"other\n", 0.0)
    log.add(1, STDERR, b"[job 1] ", b"error\n", 0.0)
    log.add(1, STDOUT, b"[job 1] ", b"ond\n\nha", 0.0)
    log.end(1, 0.0)
    log.end(2, 0.0)
    assert text(file).decode().splitlines() == [
        "[job 1] first", "[job 2] other", "[job 1] error", "[job 1] second", "[job 1] ", "[job 1] ha",
    ]  # fmt: skip


def test_a_line_without_end_is_cut(file):
    log = JobLog(file, 0.0)
    for _ in range(10):
        log.add(1, STDOUT, b"", b"x" * LINE_BYTES, 0.0)
    assert len(text(file)) >= 9 * LINE_BYTES


def test_beyond_the_bound_output_is_left_out_with_a_line_that_says_so(file, monkeypatch):
    monkeypatch.setattr(job_log, "LOG_BYTES", 1024**2)
    log = JobLog(file, 0.0)
    block = b"x" * 99 + b"\n"
    for _ in range(200):
        log.add(1, STDOUT, b"", block * 100, 0.0)
    lines = text(file).splitlines()
    assert 1_000_000 < len(text(file)) < 1024**2 + 1000
    assert [line for line in lines if line.startswith(b"[")] == [
        b"[jobs have printed more than 1 MiB here: what they print is left out for now]"
    ]
    log.add(1, STDOUT, b"", b"a day later\n", DAY)
    left_out = int(text(file).splitlines()[-2].split()[0][1:])
    assert left_out == 2_000_000 - (len(lines) - 1) * 100
    assert text(file).endswith(b" bytes of jobs' output left out here]\na day later\n")
    assert LOG_BYTES >= 1024**2


def test_a_file_that_cw_has_made_goes_on_in_a_new_one(file, tmp_path, monkeypatch):
    monkeypatch.setattr(job_log, "FILE_BYTES", 100_000)
    mine, others = JobLog(file, 0.0, str(tmp_path)), JobLog(file, 0.0, str(tmp_path / "elsewhere"))
    for number in range(3000):
        others.add(1, STDOUT, b"", b"%49d\n" % number, 0.0)
    assert os.listdir(tmp_path) == ["log"], "a file of the user's own is left alone"
    for number in range(3000, 6000):
        mine.add(1, STDOUT, b"", b"%49d\n" % number, 0.0)
        os.write(file, b"of another process\n" if number == 5999 else b"")
    lines = (tmp_path / "log.1").read_bytes().splitlines() + text(file).splitlines()
    assert text(file).endswith(b"of another process\n") and len(text(file)) < 110_000
    assert [int(line) for line in lines[:-1]] == list(range(6000 - len(lines) + 1, 6000))


def test_a_log_that_is_stuck_holds_up_nothing():
    read_end, write_end = os.pipe()
    log = JobLog(write_end, 0.0)
    line = b"x" * 999 + b"\n"
    for _ in range(2000):
        log.add(1, STDOUT, b"", line, 0.0)
    assert log.is_stuck
    data = b""
    while log.is_stuck:
        data += os.read(read_end, 2**20)
        log.flush()
    os.set_blocking(read_end, False)
    while len(data) < 2**22:
        try:
            data += os.read(read_end, 2**20)
        except BlockingIOError:
            break
    kept, _, last = data.removesuffix(b"\n").rpartition(b"\n")
    assert WAITING_BYTES - 1000 < len(kept) < WAITING_BYTES + 2**17
    assert last == b"[%d bytes of jobs' output left out: this log did not take them in time]" % (
        2_000_000 - len(kept) - 1
    )
    os.close(read_end)
    log.add(1, STDOUT, b"", line, 0.0)
    assert not log.is_stuck, "a log that is gone takes nothing, and holds up nothing"
    os.close(write_end)
