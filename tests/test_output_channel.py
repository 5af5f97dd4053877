"""Both ends of the pipes for output, at work at the same time: each byte is found to be its job's."""

import fcntl
import os
import threading
from random import Random

import pytest

from cw.net import messages as m
from cw.runner.output_channel import PRINTED, READ, STREAMS, OutputReader, OutputWriter
from cw.worker.output.job_output import Splitter


@pytest.fixture
def ends():
    reader = OutputReader()
    fds = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in reader.runner_fds]
    reader.handed_over()
    yield reader, OutputWriter(fds), fds
    for fd in fds[: len(STREAMS)]:
        os.close(fd)
    reader.close()


def read_all(reader, splitter, found):
    """Read what there is, and note it by job and stream. Returns the number of bytes."""
    total = 0
    for index, stream in enumerate(STREAMS):
        while data := reader.read(index):
            total += len(data)
            for number, part in splitter.feed(stream, data, len(data) < READ):
                found.setdefault((number, stream), []).append(part)
    return total


def test_a_job_that_prints_nothing_writes_no_mark(ends):
    reader, writer, fds = ends
    assert writer.mark(1) == b"" and writer.has_nothing()
    os.write(fds[0], b"a line\n")
    assert not writer.has_nothing()
    assert PRINTED[writer.mark(2)] == 1
    found, splitter = {}, Splitter(reader.token)
    assert writer.mark(3) == b"", "the mark that was not read yet is nothing that a job printed"
    read_all(reader, splitter, found)
    assert not writer.has_nothing(), "it was read, so a look is needed"
    assert writer.mark(4) == b"" and writer.has_nothing()
    assert found == {(2, m.STDOUT): [b"a line\n"]}


def test_what_was_read_before_the_job_ended_is_marked(ends):
    reader, writer, fds = ends
    writer.mark(0)
    os.write(fds[1], b"early\n")
    found, splitter = {}, Splitter(reader.token)
    read_all(reader, splitter, found)
    assert splitter.settle() == [(m.STDERR, b"early\n")]
    os.write(fds[2], b"record\n")
    assert not writer.has_nothing() and PRINTED[writer.mark(7)] == 2 + 4
    read_all(reader, splitter, found)
    assert found == {(7, m.STDERR): [b""], (7, m.RECORDS): [b"record\n"]}


def test_bytes_are_the_right_jobs_while_both_sides_work(ends):
    reader, writer, fds = ends
    random, wanted, found, is_over = Random(1), {}, {}, threading.Event()
    splitter = Splitter(reader.token)

    def read():
        while not is_over.is_set():
            read_all(reader, splitter, found)
        read_all(reader, splitter, found)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(1, 5001):
        for index, stream in enumerate(STREAMS):
            if random.random() < 0.1:
                data = b"%d\n" % number * random.choice([1, 3, 3000])
                wanted[number, stream] = data
                while data:
                    data = data[os.write(fds[index], data) :]
        if not writer.has_nothing():
            writer.mark(number)
    is_over.set()
    thread.join()
    assert {key: b"".join(parts) for key, parts in found.items() if any(parts)} == wanted


def test_a_pipe_that_nobody_writes_to_any_more_is_at_its_end(ends):
    reader, _, fds = ends
    assert reader.read(0) is None
    os.write(fds[0], b"last")
    os.dup2(os.open(os.devnull, os.O_WRONLY), fds[0])
    assert reader.read(0) == b"last" and reader.read(0) == b""
    reader.close_pipe(0)
    assert reader.fds[0] == -1
