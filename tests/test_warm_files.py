"""Files that are written again: only those that nobody has any more, and only for a short time."""

import mmap
import os
import socket
import sys

import pytest

import cw
from cw.net import memory, warm_files
from cw.net.warm_files import SECONDS, WarmFiles

SIZE = warm_files.LEAST


class Watch:
    """Notes what the files have called, in place of a loop."""

    def __init__(self):
        self.looks = []

    def call_soon_threadsafe(self, function):
        function()

    def call_every(self, seconds, look):
        self.looks.append(look)


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def files(watch):
    found = WarmFiles(watch)
    yield found
    found.drop()


def store(files, letter, size=SIZE):
    return files.join([letter * (size // 2), letter * (size - size // 2)], size)


def inode(stored):
    return os.fstat(stored.obj.fd).st_ino


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_a_file_is_written_again_when_its_payload_is_gone(files):
    first = store(files, b"a")
    assert bytes(first) == b"a" * SIZE
    number = inode(first)
    del first
    second = store(files, b"b")
    assert (inode(second), bytes(second)) == (number, b"b" * SIZE)
    assert bytes(memory.from_file(os.dup(second.obj.fd), SIZE)) == b"b" * SIZE  # sealed, as all are


def test_an_array_in_a_receivers_mapping_keeps_its_file(files):
    first = store(files, b"a")
    received = memory.from_file(os.dup(first.obj.fd), SIZE)
    number = inode(first)
    del first
    part = received[5:7]
    del received
    second = store(files, b"b")
    assert inode(second) != number and bytes(part) == b"aa"
    del part, second
    assert inode(store(files, b"c")) == number  # the oldest again


def test_a_file_on_its_way_is_kept(files):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        first = store(files, b"a")
        socket.send_fds(ours, [b"x"], [first.obj.fd])
        del first
        second = store(files, b"b")
        _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
        assert bytes(memory.from_file(fds[0], SIZE)) == b"a" * SIZE
        assert bytes(second) == b"b" * SIZE


def test_a_file_that_a_forked_child_has_is_kept(files):
    asks, answers = socket.socketpair()
    with asks, answers:
        first = store(files, b"a")
        if not (child := os.fork()):
            files.drop()  # as a session does there
            answers.recv(1)
            answers.send(first[:2])
            os._exit(0)
        number = inode(first)
        del first
        second = store(files, b"b")
        assert inode(second) != number
        asks.send(b"x")
        assert asks.recv(2) == b"aa"
        os.waitpid(child, 0)
    del second
    assert inode(store(files, b"c")) == number


def test_files_of_other_sizes_are_not_taken(files):
    del_me = store(files, b"a")
    number = inode(del_me)
    del del_me
    assert inode(store(files, b"b", SIZE + 1)) != number


def test_no_more_than_a_bound_is_kept(watch, monkeypatch):
    monkeypatch.setattr(memory, "half_of_all", lambda: 8 * 3 * SIZE)
    files = WarmFiles(watch)
    before = open_files()
    held = [store(files, b"a") for _ in range(5)]
    del held
    assert open_files() - before == 3
    store(files, b"b", 3 * SIZE + 1)
    store(files, b"b", SIZE - 1)
    assert open_files() - before == 3
    files.drop()
    assert open_files() == before


def test_files_are_dropped_some_time_after_the_last_one(files, watch, monkeypatch):
    monkeypatch.setattr(warm_files.time, "monotonic", lambda: 100.0)
    before = open_files()
    store(files, b"a")
    store(files, b"b", SIZE + 1)
    (look,) = watch.looks
    assert look(100.0 + SECONDS / 2) and open_files() == before + 2
    assert not look(100.0 + SECONDS) and open_files() == before
    store(files, b"c")
    assert len(watch.looks) == 2  # it is watched again


def test_where_a_file_cannot_be_opened_again_none_is_kept(files, monkeypatch):
    before = open_files()
    store(files, b"a", SIZE + 1)
    real = os.open
    monkeypatch.setattr(
        warm_files.os, "open", lambda path, *flags: real(path.replace("/proc", "/no-proc"), *flags)
    )
    stored = store(files, b"a")
    assert bytes(stored) == b"a" * SIZE and type(stored.obj) is memory.Memory
    assert isinstance(stored.obj, mmap.mmap)
    del stored
    assert open_files() == before


def keep(array):
    sys.kept = [*getattr(sys, "kept", ()), array]
    return array


def first_values_of_kept():
    return [float(array[0]) for array in sys.kept]


def test_what_jobs_and_the_program_keep_stays_what_it_was():
    numpy = pytest.importorskip("numpy")
    with cw.mp.allocate(1), cw.ClusterExecutor() as executor:
        results = [executor.submit(keep, numpy.full(SIZE // 8, n)).result(60) for n in range(8)]
        for n in range(20):
            assert executor.submit(numpy.sum, numpy.full(SIZE // 8, n)).result(60) == n * SIZE // 8
        assert executor.submit(first_values_of_kept).result(60) == list(range(8))
        assert [float(array[-1]) for array in results] == list(range(8))
        found = executor._session.calls.warm_files
        assert found._files
    assert not found._files
