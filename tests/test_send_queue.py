"""The unsent messages of a socket: written in order, counted, taken back. (On real sockets: test_connection.)"""

import contextlib
from random import Random

import pytest

from cw.net import batches, send_queue, wire
from cw.net import messages as m
from cw.net.memory import store
from cw.net.send_queue import SendQueue


class Sink:
    """A socket that takes a number of bytes at a time, and says so when it is full."""

    def __init__(self, room, at_once):
        self.room, self.at_once, self.taken = room, at_once, b""

    def send(self, buffer):
        count = min(len(buffer), self.at_once, self.room - len(self.taken))
        if buffer and not count:
            raise BlockingIOError
        self.taken += bytes(buffer[:count])
        return count


def write(queue, sink, room=10**9):
    """Let the socket take this many bytes more."""
    sink.room = len(sink.taken) + room
    with contextlib.suppress(BlockingIOError):
        queue.write_to(sink)


def jobs(*numbers, size=1):
    count = len(numbers)
    return m.Submit(list(numbers), [1] * count, [0] * count, [bytes([number]) * size for number in numbers])


def test_a_queue_counts_what_the_socket_has_not_taken_and_loses_nothing_of_it():
    queue, sink = SendQueue(), Sink(1000, 7)
    for number in range(300):
        queue.put(m.Recall(number))
    total = queue.size
    while queue.size:
        with contextlib.suppress(BlockingIOError):
            queue.write_to(sink)
        assert queue.size + len(sink.taken) == total
        sink.room += 1000
    assert wire.Decoder().feed(sink.taken) == [m.Recall(number) for number in range(300)]


def test_what_has_begun_is_finished_when_the_data_behind_it_is_dropped():
    queue, sink = SendQueue(), Sink(10, 10)
    queue.put(jobs(1))
    with pytest.raises(BlockingIOError):
        queue.write_to(sink)
    queue.put(jobs(2))
    queue.drop_data()
    queue.put(m.Recall(3))
    sink.room = 100
    queue.write_to(sink)
    assert wire.Decoder().feed(sink.taken) == [jobs(1), m.Recall(3)] and queue.size == 0


# --- taking back ------------------------------------------------------------------------------


def test_entries_that_wait_are_left_out_and_the_others_stay_in_order():
    queue, sink = SendQueue(), Sink(0, 1000)
    queue.put(jobs(1, 2, 3))
    queue.put(m.Objects([7, 8], [1, 2], [0, 0], [(), ()], [b"a", b"b"]))
    queue.put(jobs(4))
    queue.put(jobs(5, 6))
    assert queue.withdraw(m.Submit, {2, 4, 9}) == [2, 4]
    assert queue.withdraw(m.Objects, {8}) == [8]
    left = queue.size
    write(queue, sink)
    assert wire.Decoder().feed(sink.taken) == [jobs(1, 3), m.Objects([7], [1], [0], [()], [b"a"]), jobs(5, 6)]
    assert len(sink.taken) == left and queue.size == 0


def test_a_frame_of_which_one_byte_is_written_is_completed():
    queue, sink = SendQueue(), Sink(0, 1)
    queue.put(jobs(1, 2))
    write(queue, sink, 1)
    assert queue.withdraw(m.Submit, {1}) == []
    queue.put(m.Cancel([1]))
    write(queue, sink)
    assert wire.Decoder().feed(sink.taken) == [jobs(1, 2), m.Cancel([1])]


def test_a_large_payload_that_has_begun_ends_with_an_abort_mark_after_the_piece_that_has_begun():
    queue, sink = SendQueue(), Sink(0, 10**6)
    queue.put(jobs(1, size=5 * wire.PIECE))
    queue.put(jobs(2))
    write(queue, sink, wire.PIECE + 1000)
    assert queue.withdraw(m.Submit, {1, 2}) == [1, 2]
    assert queue.withdraw(m.Submit, {1, 2}) == []
    queue.put(m.Cancel([1]))
    queue.put(jobs(3, size=2 * wire.PIECE))
    write(queue, sink)
    assert len(sink.taken) < 4.1 * wire.PIECE and queue.size == 0
    cancel, large = wire.Decoder().feed(sink.taken)
    assert cancel == m.Cancel([1]) and (large.numbers, len(large.payloads[0])) == ([3], 2 * wire.PIECE)


def test_a_large_payload_whose_last_piece_is_being_written_is_completed():
    queue, sink = SendQueue(), Sink(0, 10**6)
    queue.put(jobs(1, size=2 * wire.PIECE))
    write(queue, sink, 2 * wire.PIECE)
    assert queue.withdraw(m.Submit, {1}) == []
    queue.put(m.Cancel([1]))
    write(queue, sink)
    submit, cancel = wire.Decoder().feed(sink.taken)
    assert submit.numbers == [1] and cancel == m.Cancel([1])


def test_a_memory_file_that_waits_is_taken_back_and_no_longer_counted():
    queue = SendQueue()
    memory = store([bytes(2 * batches.FRAME)], 2 * batches.FRAME)
    queue.put(jobs(1)._replace(payloads=[memory]), with_files=True)
    assert queue.size > len(memory)
    assert queue.withdraw(m.Submit, {1}, with_files=True) == [1] and queue.size == 0


@pytest.mark.parametrize("seed", range(40))
def test_what_is_cancelled_never_comes_after_its_cancel_and_all_else_comes_in_order(seed, monkeypatch):
    for module, name, value in (
        (wire, "LARGE", 40), (batches, "LARGE", 40), (send_queue, "LARGE", 40), (batches, "FRAME", 128),
        (wire, "PIECE", 25), (send_queue, "WRITE", 60),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    random = Random(seed)
    queue, sink, decoder = SendQueue(), Sink(0, 9), wire.Decoder()
    found, expected, withdrawn, last, read = [], [], set(), 0, 0
    for _ in range(400):
        event = random.choice(["put", "cancel", "write", "write"])
        if event == "put":
            numbers = range(last + 1, last + 1 + random.choice([1, 1, 4, 9]))
            last = numbers[-1]
            sizes = [random.choice([0, 1, 10, 41, 90]) for _ in numbers]
            payloads = [bytes([number % 256]) * size for number, size in zip(numbers, sizes, strict=True)]
            queue.put(m.Submit(list(numbers), [1] * len(numbers), [0] * len(numbers), payloads))
            expected += zip(numbers, payloads, strict=True)
        elif event == "cancel" and last:
            some = {random.randint(max(1, last - 20), last) for _ in range(3)}
            withdrawn.update(queue.withdraw(m.Submit, some))
            queue.put(m.Cancel(sorted(some)))
        else:
            write(queue, sink, random.randint(0, 150))
        if random.random() < 0.1:
            write(queue, sink)
            assert queue.size == 0
        found += decoder.feed(sink.taken[read:])
        read = len(sink.taken)
    write(queue, sink)
    found += decoder.feed(sink.taken[read:])
    cancelled, came = set(), []
    for message in found:
        if type(message) is m.Cancel:
            cancelled.update(message.numbers)
        else:
            assert not cancelled & set(message.numbers)
            came += zip(message.numbers, map(bytes, message.payloads), strict=True)
    assert came == [(number, payload) for number, payload in expected if number not in withdrawn]
    assert withdrawn and queue.size == 0 and decoder.direct() is None
