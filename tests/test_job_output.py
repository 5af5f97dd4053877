"""What the jobs of one runner print is cut at the marks, whatever the reads look like, and kept within bounds."""

import struct
from random import Random

import pytest

from cw.net.messages import STDERR, STDOUT
from cw.worker.output.job_output import KEPT_BYTES, JobOutput, KeptBytes, Splitter

TOKEN = bytes(range(100, 116))


def mark(number):
    return TOKEN + struct.pack("<Q", number)


def fed(splitter, stream, data, sizes):
    """Feed data in parts of these sizes; the last read shows that there is no more."""
    found, position = [], 0
    for size in sizes:
        found += splitter.feed(stream, data[position : position + size], False)
        position += size
    return found + splitter.feed(stream, data[position:], True)


@pytest.mark.parametrize("seed", range(60))
def test_bytes_belong_to_the_job_of_the_next_mark_wherever_reads_are_cut(seed):
    random = Random(seed)
    splitter = Splitter(TOKEN)
    # What looks like the beginning of a mark is a job's, too.
    pieces = [b"", b"a line\n", b"half", TOKEN[:1], TOKEN[:7], TOKEN[:15], b"\n" * 30]
    wanted, data = [], b""
    for number in range(1, random.randrange(2, 12)):
        text = b"".join(random.choices(pieces, k=random.randrange(4))) + b"."
        wanted.append((number, text))
        data += text + mark(number)
    rest = random.choice(pieces)
    data += rest
    sizes = [random.randrange(1, 40) for _ in range(random.randrange(10))]
    found = {}
    for number, part in fed(splitter, STDOUT, data, sizes):
        found[number] = found.get(number, b"") + part
    assert list(found.items()) == wanted
    assert splitter.settle() == ([(STDOUT, rest)] if rest else [])
    assert not splitter.has_rest


def test_what_was_settled_is_not_given_again():
    splitter = Splitter(TOKEN)
    assert splitter.feed(STDOUT, b"one\n", True) == []
    assert splitter.feed(STDERR, b"two\n", True) == []
    assert splitter.settle() == [(STDOUT, b"one\n"), (STDERR, b"two\n")]
    assert splitter.feed(STDOUT, b"three\n" + mark(5), True) == [(5, b"three\n")]
    assert splitter.settle() == []


@pytest.mark.parametrize("seed", range(40))
def test_the_head_and_the_tail_are_kept(seed):
    random = Random(seed)
    head, tail = random.choice([(0, 50), (20, 30), (25, 25)])
    kept, data = KeptBytes(head, tail), b""
    for _ in range(random.randrange(12)):
        part = b"".join(b"%d\n" % random.randrange(1000) for _ in range(random.randrange(8)))
        kept.add(part)
        data += part
    assert kept.size == len(data)
    text = kept.text(50)
    if len(data) <= 50:
        assert text == data
        return
    before, line, after = text.partition(b"[\xe2\x80\xa6 ")
    missing, _, after = after.partition(b" bytes left out]\n")
    assert line and data.startswith(before.removesuffix(b"\n")) and data.endswith(after)
    assert len(before) <= head + 1 and len(after) <= tail + (0 if head else 1)
    assert int(missing) == len(data) - min(head, len(data)) - len(after)


def test_64_kib_are_kept_of_both_streams_together():
    job = JobOutput(1, 2, 3, "keep")
    assert job.kept_output() is None
    job.add(STDOUT, b"x" * 1000)
    job.add(STDERR, b"y" * 2000)
    assert job.kept_output() == (1000, False, b"x" * 1000 + b"y" * 2000)
    job.add(STDOUT, b"".join(b"%99d\n" % number for number in range(10_000)))
    size, is_cut, text = job.kept_output()
    assert is_cut and text.endswith(b"y" * 2000) and len(text) - size == 2000
    assert KEPT_BYTES - 500 < len(text) < KEPT_BYTES + 100
    assert text.startswith(b"x" * 1000) and b"%99d\n" % 9999 in text
    for _ in range(40):
        job.add(STDERR, b"z" * 2000 + b"\n")
    size, is_cut, text = job.kept_output()
    assert is_cut and abs(size - KEPT_BYTES // 2) < 200 and abs(len(text) - KEPT_BYTES) < 3000


def test_of_a_job_that_keeps_nothing_the_end_is_there_for_its_error():
    for mode in (None, "print", "log", "drop"):
        job = JobOutput(1, 2, 3, mode)
        job.add(STDOUT, b"".join(b"%99d\n" % number for number in range(10_000)))
        _, is_cut, text = job.kept_output()
        assert is_cut and b"%99d\n" % 9999 in text and b"%99d\n" % 100 not in text
        assert text.startswith("[… ".encode()) and len(text) < KEPT_BYTES + 100
