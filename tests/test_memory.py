"""Memory files: written once, sealed, mapped by who receives them."""

import ctypes
import gc
import mmap
import os
import resource

import pytest

from cw.net import memory


def test_parts_lie_one_after_the_other_whatever_their_number():
    parts = [bytes([n % 256]) * (n % 7) for n in range(3000)]
    stored = memory.store(parts, sum(map(len, parts)))
    assert bytes(stored) == b"".join(parts)


def test_who_receives_a_file_sees_its_bytes_and_keeps_his_changes_to_himself():
    stored = memory.store([b"abc", b"def"], 6)
    received = memory.from_file(os.dup(stored.obj.fd), 6)
    assert bytes(received) == b"abcdef"
    received[0] = ord("x")
    assert bytes(stored) == b"abcdef"


def test_a_file_of_another_size_or_one_that_could_shrink_is_refused():
    stored = memory.store([b"abc"], 3)
    with pytest.raises(ValueError, match="not of 4 bytes"):
        memory.from_file(os.dup(stored.obj.fd), 4)
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.ftruncate(loose, 3)
    with pytest.raises(ValueError, match="not sealed"):
        memory.from_file(loose, 3)


def test_a_stored_file_cannot_be_cut_short():
    stored = memory.store([b"abc"], 3)
    with pytest.raises(PermissionError):
        os.ftruncate(stored.obj.fd, 1)


def test_a_payload_that_lies_in_a_file_of_its_own_is_not_copied():
    stored = memory.store([b"abc"], 3)
    assert memory.as_file(stored) is stored.obj
    assert bytes(memory.as_file(stored[1:])) == b"bc"
    assert bytes(memory.as_file(b"plain")) == b"plain"


def test_the_descriptor_is_closed_with_the_memory():
    stored = memory.store([b"abc"], 3)
    fd = stored.obj.fd
    del stored
    with pytest.raises(OSError):
        os.fstat(fd)


def test_a_file_is_mapped_read_only_and_shared():
    stored = memory.store([b"abc"], 3)
    mapped = memory.read_only(stored)
    assert mapped.readonly and bytes(mapped) == b"abc"
    stored[0] = ord("x")
    assert bytes(mapped) == b"xbc"  # the same memory
    for other in (b"abc", bytearray(b"abc"), stored[1:]):
        assert memory.read_only(other).readonly


def test_half_of_the_memory_is_that_of_the_machine_or_less():
    assert 0 < memory.half_of_all() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def test_private_memory_has_exactly_the_size_asked_for():
    for size in 0, 1, 5000, memory.WARM, memory.WARM + 1, memory.MAPPED + 1:
        allocated = memory.private(size)
        assert len(allocated) == size and not allocated.readonly


SIZE = 2 * memory.WARM


@pytest.fixture
def nothing_kept(monkeypatch):
    """No memory is kept yet, and no more than three pieces of SIZE will be."""
    monkeypatch.setattr(memory, "_kept", [])
    monkeypatch.setattr(memory, "KEPT", 3 * SIZE)


def place(view):
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def test_private_memory_is_lent_again_when_nobody_sees_it_any_more(nothing_kept):
    first = memory.private(SIZE)
    at, part = place(first), first[10:20]
    del first
    second = memory.private(SIZE)
    assert place(second) != at  # a part of it is still seen
    del part
    assert place(memory.private(SIZE)) == at
    assert place(memory.private(2 * SIZE)) != at


def test_memory_that_a_finalizer_may_still_read_is_not_lent_again(nothing_kept):
    """The collector tells that garbage is gone before its finalizers have run."""
    seen = []

    class Reader:
        def __init__(self, view):
            self.view, self.me = view, self

        def __del__(self):
            memory.private(SIZE)[:] = bytes(SIZE)
            seen.append(bytes(self.view) == bytes([7]) * SIZE)

    view = memory.private(SIZE)
    view[:] = bytes([7]) * SIZE
    Reader(view)
    del view
    gc.collect()
    assert seen == [True]


def test_a_payload_fits_into_the_memory_of_one_of_about_its_size(nothing_kept):
    allocated = memory.private(SIZE + 12345)
    at = place(allocated)
    del allocated
    again = memory.private(SIZE + 1)
    assert place(again) == at and len(again) == SIZE + 1


def test_memory_that_is_lent_again_costs_no_faults(nothing_kept):
    for faults in "some", "none":
        allocated = memory.private(SIZE)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for position in range(0, SIZE, mmap.PAGESIZE):
            allocated[position] = 1
        count = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        assert count > 0 if faults == "some" else count < 10
        del allocated


@pytest.mark.parametrize("most", [3, 2])
def test_a_bounded_share_of_unused_memory_is_kept(nothing_kept, monkeypatch, most):
    monkeypatch.setattr(memory, "MOST_KEPT", most)
    several = [memory.private(SIZE) for _ in range(5)]
    newest = [place(allocated) for allocated in several[-most:]]
    while several:
        del several[0]
    assert [place(memoryview(pages)) for pages in memory._kept] == newest
    assert memory.private(4 * SIZE)  # and is gone at once
    assert sum(map(len, memory._kept)) <= memory.KEPT


def test_a_forked_child_does_not_write_into_its_parents_memory():
    for size in 1, memory.WARM:
        allocated = memory.private(size)
        allocated[0] = 0
        if not (child := os.fork()):
            allocated[0] = 1
            os._exit(0)
        os.waitpid(child, 0)
        assert allocated[0] == 0


def test_a_copy_as_bytes_is_equal_in_all_that_bytes_have():
    for size in memory.MAPPED, memory.MAPPED + 1:
        content = os.urandom(1024) * (size // 1024 + 2)
        view = memoryview(bytearray(content))[7 : 7 + size]
        copy = memory.as_bytes(view)
        assert type(copy) is bytes and copy == content[7 : 7 + size] and hash(copy) == hash(bytes(view))
        view[:] = bytes(size)
        assert copy == content[7 : 7 + size] and copy.find(b"\0" * 1024) < 0
