"""Live output: whole lines, in order, within the bounds of each client; what is left out is counted exactly."""

from random import Random

import pytest

from cw.net.messages import RECORDS, STDERR, STDOUT
from cw.worker.output.job_output import JobOutput
from cw.worker.output.live_output import (
    BURST_SECONDS,
    FIRST_LINES,
    LINE_BYTES,
    LINE_SECONDS,
    QUEUE_BYTES,
    LiveOutput,
)


def job(dispatch=1, session=7):
    return JobOutput(session, dispatch, dispatch, "print")


def test_lines_go_when_they_are_whole():
    live, one = LiveOutput(), job()
    live.add(one, STDOUT, b"first\nsec", 0.0)
    assert live.take() == [(1, STDOUT, 0, 0, b"first\n")]
    live.add(one, STDERR, b"other\n", 0.0)
    live.add(one, STDOUT, b"ond\n", 0.1)
    assert live.take() == [(1, STDERR, 0, 0, b"other\n"), (1, STDOUT, 0, 0, b"second\n")]
    assert not live.has_open_lines and not live.has_queued


def test_a_line_that_takes_its_time_or_a_job_that_ends_sends_what_there_is():
    live, one = LiveOutput(), job()
    live.add(one, STDOUT, b"50 %", 0.0)
    live.end_lines(LINE_SECONDS / 2)
    assert live.take() == [] and live.has_open_lines
    live.end_lines(LINE_SECONDS)
    assert live.take() == [(1, STDOUT, 0, 0, b"50 %")]
    live.add(one, STDOUT, b"\r100 %", 1.0)
    live.end(one, 1.0)
    assert live.take() == [(1, STDOUT, 0, 0, b"\r100 %")] and not live.has_open_lines


def test_a_record_is_a_whole_line_or_nothing():
    live, one = LiveOutput(), job()
    live.add(one, RECORDS, b'{"a": 1}\n{"b"', 0.0)
    live.end_lines(10.0)
    live.add(one, RECORDS, b": 2" + b" " * (LINE_BYTES + 9), 10.0)
    live.add(one, RECORDS, b"}\n", 10.0)
    (first, second) = live.take()
    assert first[-1] == b'{"a": 1}\n' and second[-1] == b'{"b": 2' + b" " * (LINE_BYTES + 9) + b"}\n"


def test_the_first_lines_go_before_the_master_has_named_a_share():
    live, one = LiveOutput(), job()
    live.add(one, STDOUT, b"x\n" * (FIRST_LINES + 5), 0.0)
    assert live.take() == [(1, STDOUT, 0, 0, b"x\n" * FIRST_LINES)]
    live.add(one, STDOUT, b"x\n", 100.0)
    assert live.take() == []
    live.on_share(7, 1000, 10, 100.0)
    live.add(one, STDOUT, b"y\n", 101.0)
    assert live.take() == [(1, STDOUT, 6, 12, b"y\n")]


def test_beyond_the_share_lines_are_left_out_in_one_place_and_counted():
    live, one = LiveOutput(), job()
    live.on_share(7, 10_000, 100, 0.0)
    saved_up = int(100 * BURST_SECONDS)
    live.add(one, STDOUT, b"x\n" * (saved_up + 50), 0.0)
    live.add(one, STDOUT, b"x\n", 0.1)  # there is room for 10 lines again, but not for a quarter
    assert live.take() == [(1, STDOUT, 0, 0, b"x\n" * saved_up)]
    live.add(one, STDOUT, b"y\n", 0.3)
    assert live.take() == [(1, STDOUT, 51, 102, b"y\n")]
    live.add(one, STDERR, b"z\n" * 100, 0.3)
    live.end(one, 0.4)
    counts = [entry[2:4] for entry in live.take()]
    assert counts[-1][0] > 0 and sum(lines for lines, _ in counts) == 100 - 29


def test_one_clients_flood_is_not_anothers():
    live, one, other = LiveOutput(), job(1, 7), job(2, 8)
    live.add(one, STDOUT, b"x\n" * 10_000, 0.0)
    live.add(other, STDOUT, b"y\n", 0.0)
    assert (2, STDOUT, 0, 0, b"y\n") in live.take()


@pytest.mark.parametrize("seed", range(50))
def test_what_comes_is_what_was_written_but_for_what_is_counted(seed):
    random = Random(seed)
    live = LiveOutput()
    jobs = {number: job(number, 7 + number % 2) for number in range(1, 4)}
    written, ends, now = {}, {}, 0.0

    def take():
        for dispatch, stream, lines, size, payload in live.take():
            data, start = written[dispatch, stream], ends.get((dispatch, stream), 0)
            assert (lines > 0) == (size > 0)
            if data[start : start + size].endswith(b"\n"):
                assert lines >= data.count(b"\n", start, start + size)
            start += size
            end = ends[dispatch, stream] = start + len(payload)
            assert data[start:end] == payload

    for session in 7, 8:
        if random.random() < 0.8:
            live.on_share(session, random.choice([100, 10_000]), random.choice([1, 10, 1000]), now)
    for _ in range(random.randrange(60)):
        now += random.choice([0.0, 0.0, 0.01, 0.3, 2.0])
        number, stream = random.choice(list(jobs)), random.choice([STDOUT, STDERR, RECORDS])
        line = random.choice([b"a", b"bb\n", b"\n", b"c" * 200 + b"\n", b"d" * 3000])
        data = line * random.randrange(1, 40)
        written[number, stream] = written.get((number, stream), b"") + data
        live.add(jobs[number], stream, data, now)
        if random.random() < 0.2:
            live.end_lines(now)
        live.check_invariants()
        if random.random() < 0.7:
            take()
    for each in jobs.values():
        live.end(each, now)
    live.check_invariants()
    take()
    assert ends == {key: len(data) for key, data in written.items()}
    assert not live.has_open_lines


def test_while_nothing_can_be_sent_a_bounded_number_of_bytes_waits():
    live, one = LiveOutput(), job()
    live.on_share(7, 10**9, 10**9, 0.0)
    for second in range(100):
        live.add(one, STDOUT, b"x" * 9999 + b"\n", float(second))
        live.check_invariants()
    entries = live.take()
    assert 0 < sum(len(entry[-1]) for entry in entries) <= QUEUE_BYTES
    live.end(one, 100.0)
    assert sum(len(entry[-1]) + entry[3] for entry in entries + live.take()) == 1_000_000


def test_a_long_line_that_is_left_out_in_parts_is_not_a_line_each():
    live, one = LiveOutput(), job()
    live.on_share(7, 1000, 10, 0.0)
    for _ in range(20):
        live.add(one, STDOUT, b"x" * 2 * LINE_BYTES, 0.0)
    live.end(one, 0.0)
    assert live.take() == [(1, STDOUT, 1, 40 * LINE_BYTES, b"")]
