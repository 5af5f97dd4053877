"""Checksums of large data, which are made while the data is written."""

import mmap
import threading
import zlib

from cw.store.checksums import Checksums


def sums_threads():
    return [thread for thread in threading.enumerate() if thread.name == "cw-store-sums"]


def test_each_gets_its_own_checksum_whichever_is_asked_for_first():
    checksums = Checksums()
    pieces = [bytes([number]) * 100_000 for number in range(5)]
    asked = [checksums.begin(memoryview(piece)) for piece in pieces]
    assert [ask() for ask in reversed(asked)] == [zlib.crc32(piece) for piece in reversed(pieces)]
    checksums.close()


def test_the_thread_begins_with_the_first_and_ends_at_the_close():
    before = sums_threads()
    checksums = Checksums()
    assert sums_threads() == before
    checksums.begin(memoryview(b"one"))()
    (thread,) = set(sums_threads()) - set(before)
    checksums.close()
    checksums.close()
    assert not thread.is_alive()


def test_the_memory_is_released_when_the_checksum_is_there():
    checksums = Checksums()
    memory = mmap.mmap(-1, 1 << 20)
    data = memoryview(memory)
    checksum = checksums.begin(data)
    assert checksum() == zlib.crc32(bytes(1 << 20))
    del checksum
    checksums.begin(memoryview(b""))()  # (the thread has let go of the former by then)
    data.release()
    memory.close()  # raises BufferError otherwise
    checksums.close()


def test_without_a_thread_it_is_made_when_it_is_asked_for(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert Checksums().begin(memoryview(b"some bytes"))() == zlib.crc32(b"some bytes")
