"""Large files of a store: the faster of two ways of writing them, and the same bytes by both."""

import errno
import fcntl
import math
import mmap
import os
import random

import pytest

from cw.store import direct
from cw.store.direct import AT_ONCE, BLOCK, SHARE, Ways

SIZE = 10**7
LARGEST = 300 * BLOCK


def seconds_of(ways, paces, count):
    """The seconds that `count` files take each way: through the cache, directly. `paces`: for one file."""
    spent = [0.0, 0.0]
    for _ in range(count):
        is_direct = ways.is_direct(SIZE)
        ways.note(is_direct, SIZE, paces[is_direct])
        spent[is_direct] += paces[is_direct]
    return spent


@pytest.mark.parametrize("paces", [(0.002, 0.007), (0.02, 0.007), (0.002, 2.0)])
def test_the_faster_way_is_taken_and_the_other_tried_again_at_a_small_share_of_the_time(paces):
    ways = Ways()
    assert seconds_of(ways, paces, 2) == list(paces)
    spent = seconds_of(ways, paces, 20_000)
    faster = paces[1] < paces[0]
    assert 0 < spent[not faster] <= spent[faster] * SHARE * 1.001  # (rounded)


def test_a_way_that_has_become_faster_is_found():
    ways = Ways()
    seconds_of(ways, (0.002, 0.007), 1000)
    spent = seconds_of(ways, (0.02, 0.007), 1000)
    assert spent[False] < spent[True] * 0.1


def test_a_way_that_is_not_possible_is_not_tried_again():
    ways = Ways()
    ways.note(True, SIZE, math.inf)
    assert not any(ways.is_direct(SIZE) or ways.note(False, SIZE, 1.0) for _ in range(1000))


class Directly(Ways):
    """As if that was faster each time."""

    def is_direct(self, size):
        return True


@pytest.fixture
def is_direct_of_writes(monkeypatch):
    """Whether each write was direct."""
    seen, write = [], os.write

    def noted(fd, data):
        seen.append(bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT))
        return write(fd, data)

    monkeypatch.setattr(os, "write", noted)
    return seen


def written(path, data, ways, is_durable=False):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        direct.write(fd, data, is_durable, ways)
    finally:
        os.close(fd)
    return path.read_bytes()


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, LARGEST - 1, LARGEST])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("ways_class", [Ways, Directly])
def test_the_same_bytes_come_by_both_ways_from_any_place(
    tmp_path, is_direct_of_writes, size, offset, ways_class
):
    memory = mmap.mmap(-1, LARGEST + BLOCK)
    memory[:] = random.Random(size).randbytes(len(memory))
    data = memoryview(memory)[offset : offset + size]
    assert written(tmp_path / "f", data, ways_class(), is_durable=bool(offset)) == data
    assert size % BLOCK == 0 or not is_direct_of_writes[-1]  # what is no whole block


def test_pieces_are_written_until_all_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(direct, "AT_ONCE", 3 * BLOCK)
    data = memoryview(random.Random(1).randbytes(20 * BLOCK + 7))
    for number, ways in enumerate((Ways(), Directly())):
        assert written(tmp_path / str(number), data, ways) == data
    assert AT_ONCE % BLOCK == 0


def test_a_file_system_that_cannot_write_directly_is_written_through_the_cache(
    tmp_path, monkeypatch, is_direct_of_writes
):
    def refused(fd, command, argument=0):
        if command == fcntl.F_SETFL:
            raise OSError(errno.EINVAL, "Invalid argument")
        return 0

    monkeypatch.setattr(fcntl, "fcntl", refused)
    ways = Ways()
    assert ways.is_direct(BLOCK)
    assert written(tmp_path / "f", memoryview(bytes(BLOCK)), ways) == bytes(BLOCK)
    assert not ways.is_direct(BLOCK) and is_direct_of_writes == [False]


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for number, ways in enumerate((Ways(), Directly())):
        with pytest.raises(OSError, match="No space"):
            written(tmp_path / str(number), memoryview(bytes(BLOCK)), ways)
