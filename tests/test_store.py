"""The store's files: what was stored is found again, whatever else has happened to them."""

import errno
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import time
import weakref
import zipfile
from pathlib import Path

import pytest
from conftest import events
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import LIMIT, ROOT

from cw import StoreError
from cw.store import format as form
from cw.store import reader
from cw.store import writer as writing
from cw.store.directory import MARKER, new_segment_name
from cw.store.format import Entry
from cw.store.reader import Store
from cw.store.writer import SegmentFile, Writer

SCHEME = "test"


def entry(
    number, payload=b"payload", *, key=None, status=0, args=b"args", durable=False, function="f", host="node1"
):
    key = number.to_bytes(16, "little") if key is None else key
    return Entry(key, number, function, host, status, 1e9 + number, 0.5, args, payload, durable, [])


def put(writer, *entries):
    """Store them, and wait for it."""
    done, errors = threading.Event(), []
    writer.put(entries, lambda error: (errors.append(error), done.set()))
    assert done.wait(LIMIT)
    if errors[0] is not None:
        raise errors[0]


def written(path, *entries):
    """A store with these results, closed."""
    writer = Writer(Store(path, True, SCHEME))
    try:
        put(writer, *entries)
    finally:
        writer.close()
    return path


def read(path, scheme=""):
    """Payloads by job number."""
    opened = Store(path, False, scheme)
    found = [opened.read(place) for place in opened.places()]
    opened.close()
    return {stored.number: bytes(stored.payload) for stored in found}


def segment_of(path):
    (found,) = Path(path).glob("*.seg")
    return found


# --- there and back ---------------------------------------------------------------------------


def test_what_was_stored_comes_back(tmp_path):
    results = [
        entry(1),
        entry(2, b"", args=b"a" * 5000, function="g"),
        entry(3, b"x" * 10_000, status=1, host="")._replace(output=(b"out\n" * 5000, b"\xff")),
        entry(4)._replace(output=(b"", b"")),
        entry(5, b"large" * form.LARGE)._replace(output=(b"5", b"")),
    ]
    path = written(tmp_path / "s", *results)
    opened = Store(path, False, SCHEME)
    found = [opened.read(place) for place in opened.places()]
    assert found == [
        (e.key, e.number, e.function, e.host, e.status, e.when, e.seconds, e.args, e.payload, {}, e.output)
        for e in results
    ]
    assert [opened.head(place)[:7] for place in opened.places()] == [stored[:7] for stored in found]


def test_names_of_segments_sort_as_they_were_made():
    """Hundreds in a millisecond, too: the latest result of a call counts."""
    names = [new_segment_name() for _ in range(2000)]
    assert sorted(names) == names and len({name.partition("-")[0] for name in names}) < 1000


def test_several_writers_at_once_and_one_after_the_other(tmp_path):
    first, second = (Writer(Store(tmp_path / "s", True, SCHEME)) for _ in range(2))
    put(first, entry(1))
    put(second, entry(2))
    put(first, entry(3))
    assert read(tmp_path / "s").keys() == {1, 2, 3}
    second.store.refresh()
    assert len(second.store.index) == 3  # also what is its own, and once
    put(second, entry(4))
    first.store.refresh()
    assert len(first.store.index) == 4
    for writer in first, second:
        writer.close()
    written(tmp_path / "s", entry(5))
    assert read(tmp_path / "s").keys() == {1, 2, 3, 4, 5}


def test_of_one_key_the_latest_counts_but_an_error_does_not_replace_a_result(tmp_path):
    key = b"k" * 16
    for number, status in enumerate([1, 1, 0, 1]):
        written(tmp_path / "s", entry(number, b"%d" % number, key=key, status=status))
        time.sleep(0.002)  # segments are in the order of their names, which begin with the millisecond
    assert read(tmp_path / "s") == {2: b"2"}
    writer = Writer(Store(tmp_path / "s", True, SCHEME))
    put(writer, entry(8, key=b"l" * 16, status=1))
    put(writer, entry(9, key=b"l" * 16), entry(10, key=b"l" * 16, status=1))
    assert [writer.store.read(place).number for place in writer.store.places()] == [2, 9]
    writer.close()


def test_large_results_are_files_beside_it_and_large_arguments_are_left_out(tmp_path):
    large = random.Random(1).randbytes(form.LARGE + 1)
    path = written(tmp_path / "s", entry(1, large), entry(2, memoryview(large)), entry(3, args=large))
    assert segment_of(path).stat().st_size < 2000
    assert len(list((path / "large").iterdir())) == 2
    assert read(path) == {1: large, 2: large, 3: b"payload"}
    opened = Store(path, False)
    assert [opened.read(place).args for place in opened.places()] == [b"args", b"args", None]
    for file in (path / "large").iterdir():
        data = bytearray(file.read_bytes())
        data[500_000] ^= 1
        file.write_bytes(data)
    with pytest.raises(StoreError, match="is damaged"):
        opened.read(next(opened.places()))
    shutil.rmtree(path / "large")
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        opened.read(next(opened.places()))


def test_a_small_result_costs_less_than_300_bytes(tmp_path):
    payload, args = b"p" * 20, b"a" * 20
    path = written(tmp_path / "s", *(entry(n, payload, args=args) for n in range(10_000)))
    assert segment_of(path).stat().st_size / 10_000 - 40 < 100
    assert len(read(path)) == 10_000


def test_a_definition_is_there_once_and_with_each_result_of_its_program(tmp_path):
    known = {b"d" * 16: random.Random(2).randbytes(3000)}
    path = written(tmp_path / "s", *(entry(n)._replace(definitions=known) for n in range(100)))
    assert segment_of(path).stat().st_size < 100 * 100 + 3500
    written(path, entry(100), entry(101)._replace(definitions={b"e" * 16: b"another"}))
    opened = Store(path, False)
    found = {stored.number: stored.definitions for stored in map(opened.read, opened.places())}
    assert [found[number] for number in (0, 99)] == [known, known]
    assert found[101] == {b"e" * 16: b"another"}
    writer = Writer(opened)
    put(writer, entry(102)._replace(definitions=known))
    assert opened.read(max(opened.places())).definitions == known, "by the program that writes them"
    writer.close()


def test_a_damaged_definition_costs_no_result_that_does_not_need_it(tmp_path):
    known = {b"d" * 16: b"definition" * 100}
    path = written(tmp_path / "s", entry(1), entry(2)._replace(definitions=known))
    found = Store(path, False)
    data = bytearray(segment_of(path).read_bytes())
    data[data.find(known[b"d" * 16]) + 5] ^= 1
    segment_of(path).write_bytes(data)
    for opened in (found, Store(path, False)):  # damaged after it was found, and before
        assert [(each.number, each.definitions) for each in map(opened.read, opened.places())] == [
            (1, {}),
            (2, {}),
        ]


def test_only_the_owner_can_read_a_store(tmp_path):
    path = written(tmp_path / "s", entry(1), entry(2, b"x" * (form.LARGE + 1)))
    for found in [path, *path.rglob("*")]:
        assert not stat.S_IMODE(found.stat().st_mode) & 0o077


def test_a_writer_without_results_leaves_no_file(tmp_path):
    Writer(Store(tmp_path / "s", True, SCHEME)).close()
    assert [path.name for path in (tmp_path / "s").iterdir()] == [MARKER]


def test_more_segments_than_files_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "OPEN_SEGMENTS", 3)
    for number in range(10):
        written(tmp_path / "s", entry(number))
    opened = Store(tmp_path / "s", False)
    for _ in range(2):
        assert sorted(opened.read(place).number for place in opened.places()) == [*range(10)]
    files = [name for name in map(_target, os.listdir("/proc/self/fd")) if name.startswith(f"{tmp_path}/")]
    assert len(files) == 3
    del opened
    assert not [name for name in map(_target, os.listdir("/proc/self/fd")) if name.startswith(f"{tmp_path}/")]


def _target(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:  # that of the directory itself
        return ""


def test_who_brings_more_than_is_written_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "BACKLOG", 10_000)
    gate, write = threading.Event(), SegmentFile.append
    slow = Writer(Store(tmp_path / "s", True, SCHEME))
    monkeypatch.setattr(SegmentFile, "append", lambda self, parts: (gate.wait(LIMIT), write(self, parts)))
    done = []
    for number in range(2):
        slow.put([entry(number, b"x" * 20_000)], done.append)
        if not number:
            thread = threading.Thread(target=lambda: slow.put([entry(5, b"x")], done.append))
            thread.start()
            thread.join(0.2)
            assert thread.is_alive() and not done
            gate.set()
    thread.join(LIMIT)
    slow.close()
    assert done == [None] * 3 and len(read(tmp_path / "s")) == 3


def test_results_are_read_many_at_once_if_one_after_the_other(tmp_path, monkeypatch):
    path = written(tmp_path / "s", *(entry(n, b"x" * 100) for n in range(1000)))
    sizes, pread = [], os.pread

    def noted(*args):
        data = pread(*args)
        sizes.append(len(data))
        return data

    opened = Store(path, False)
    monkeypatch.setattr(os, "pread", noted)
    places = list(opened.places())
    assert [opened.read(place).number for place in places] == list(range(1000))
    assert len(sizes) < 100
    del sizes[:]
    opened.refresh()
    assert [opened.read(place).number for place in reversed(places)] == list(reversed(range(1000)))
    assert max(sizes) <= 4096  # no more than what is asked for


def test_what_another_program_adds_is_read_behind_what_was_read_before(tmp_path):
    writer, opened = Writer(Store(tmp_path / "s", True, SCHEME)), Store(tmp_path / "s", False)
    for number in range(20):
        put(writer, entry(number, b"%d" % number * 50))
        opened.refresh()
        assert [opened.read(place).number for place in opened.places()] == list(range(number + 1))
    writer.close()


# --- damage -----------------------------------------------------------------------------------


def test_a_torn_end_is_passed_over_at_any_byte(tmp_path):
    path = written(tmp_path / "s", *(entry(n) for n in range(3)))
    segment = segment_of(path)
    whole = segment.read_bytes()
    counts = []
    for size in range(len(whole) + 1):
        segment.write_bytes(whole[:size])
        opened = Store(path, False)
        found = [opened.read(place).number for place in opened.places()]
        assert found == list(range(len(found))) and opened.damaged == 0
        counts.append(len(found))
    assert counts == sorted(counts) and counts[-1] == 3 and set(counts) == {0, 1, 2, 3}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damage_in_the_middle_costs_what_is_damaged_and_no_more(tmp_path_factory, data):
    path = written(tmp_path_factory.mktemp("x") / "s", *(entry(n, b"%d" % n * 20) for n in range(20)))
    segment = segment_of(path)
    whole = bytearray(segment.read_bytes())
    start = 400 + data.draw(st.integers(0, 1500))
    garbage = data.draw(st.binary(min_size=1, max_size=200) | st.sampled_from([form.MAGIC * 20, b"records"]))
    garbage = whole[400:700] if garbage == b"records" else garbage
    whole[start : start + len(garbage)] = garbage
    segment.write_bytes(whole)
    opened = Store(path, False)
    found = {}
    for place in opened.places():
        stored = opened.read(place)
        found[stored.number] = stored.payload
    assert all(payload == b"%d" % number * 20 for number, payload in found.items())
    hit = 2 + len(garbage) // 100
    assert len(found) >= 20 - hit - 2


def test_a_damaged_head_costs_no_results(tmp_path):
    path = written(tmp_path / "s", entry(1), entry(2))
    data = segment_of(path).read_bytes()
    segment_of(path).write_bytes(data[:70] + b"XXXX" + data[74:])
    assert read(path, SCHEME).keys() == {1, 2}


def test_an_end_that_is_not_whole_is_told_unless_it_may_still_be_written(tmp_path, caplog):
    path = written(tmp_path / "s", entry(1), entry(2))
    segment = segment_of(path)
    segment.write_bytes(segment.read_bytes()[: -form.SIZE - 1])  # without the end mark, and a byte
    assert read(path).keys() == {1} and not caplog.text
    os.utime(segment, (1e9, 1e9))
    assert read(path).keys() == {1} and events(caplog) == ["store.end_torn"]
    caplog.clear()
    segment.write_bytes(os.urandom(5000))
    assert not read(path) and events(caplog) == ["store.end_torn"] and "5000 bytes" in caplog.text


def test_a_segment_that_is_removed_while_it_is_written_is_told(tmp_path):
    writer = Writer(Store(tmp_path / "s", True, SCHEME))
    try:
        put(writer, entry(1))
        shutil.rmtree(tmp_path / "s")
        with pytest.raises(StoreError, match="has been removed"):
            put(writer, entry(2))
    finally:
        writer.close()


def test_damage_is_found_across_pieces_and_told(tmp_path, monkeypatch, caplog):
    path = written(tmp_path / "s", *(entry(n, b"x" * 300) for n in range(100)))
    data = bytearray(segment_of(path).read_bytes())
    data[10_000:10_500] = bytes(500)
    segment_of(path).write_bytes(data)
    monkeypatch.setattr(form, "READ_AT_ONCE", 1500)
    monkeypatch.setattr(form, "MOST_BODY", 1000)
    found = read(path)
    assert 97 <= len(found) <= 98 and set(found.values()) == {b"x" * 300}
    assert "store.damaged" in events(caplog)


def test_a_record_that_is_damaged_after_it_was_found_is_an_error(tmp_path):
    path = written(tmp_path / "s", entry(1))
    opened = Store(path, False)
    data = bytearray(segment_of(path).read_bytes())
    data[-form.SIZE - 1] ^= 1  # (the end mark is behind it)
    segment_of(path).write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        opened.read(next(opened.places()))
    segment_of(path).unlink()
    opened.close()
    with pytest.raises(StoreError, match="has been removed"):
        opened.read(next(opened.places()))


# --- what is not a store, or not to be used ---------------------------------------------------


def content(path):
    return {found.relative_to(path): found.read_bytes() for found in path.rglob("*") if found.is_file()}


@pytest.mark.parametrize("is_writing", [True, False])
@pytest.mark.parametrize("kind,message", [
    ("file", "is a file and no store"), ("directory", "is a directory, but no store"),
    ("garbled", "cw-store.json is damaged, and no"), ("newer", "written by a newer cw .* update cw"),
    ("newer segment", "written by a newer cw"),
])  # fmt: skip
def test_what_is_no_store_is_left_alone_with_an_error(tmp_path, kind, message, is_writing):
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
        (path / "precious").write_text("data")
    else:
        written(path, entry(1))
        marker = path / MARKER
        if kind == "newer":
            marker.write_text(json.dumps({**json.loads(marker.read_text()), "format": 99}))
        elif kind == "garbled":
            marker.write_text("{")
            segment_of(path).write_bytes(b"?" + segment_of(path).read_bytes()[1:])
        else:
            body = json.dumps({"format": 99}).encode()
            (path / "zzz.seg").write_bytes(form.record(form.HEADER, body, 0.0))
    before = path.read_bytes() if kind == "file" else content(path)
    with pytest.raises(StoreError, match=message):
        Store(path, is_writing, SCHEME)
    assert before == (path.read_bytes() if kind == "file" else content(path))


@pytest.mark.parametrize("is_missing", [True, False])
def test_the_marker_may_be_had_from_the_segments(tmp_path, caplog, is_missing):
    path = written(tmp_path / "s", entry(1), entry(2))
    ident = Store(path, False).ident
    marker = path / MARKER
    if is_missing:
        marker.unlink()
    else:
        marker.write_text("{")
    assert read(path).keys() == {1, 2} and set(events(caplog)) == {"store.marker_missed"}
    assert f"{MARKER} is {'missing' if is_missing else 'damaged'}" in caplog.text
    written(path, entry(3))
    assert "store.marker_repaired" in events(caplog) and json.loads(marker.read_text())["id"] == ident
    caplog.clear()
    assert read(path).keys() == {1, 2, 3} and not caplog.text


def test_a_path_that_leads_nowhere(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        Store(tmp_path / "s", False)
    with pytest.raises(StoreError, match="cannot be opened: No such file or directory"):
        Store(tmp_path / "a" / "b", True)
    assert not list(tmp_path.iterdir())


def test_two_programs_make_one_store_at_the_same_time(tmp_path):
    program = (
        "import sys; from cw.store.reader import Store; from cw.store.writer import Writer; "
        "s = Store(sys.argv[1], True, 'x'); print(s.ident); Writer(s).close()"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path / "s"], stdout=subprocess.PIPE, text=True,
                         env={**os.environ, "PYTHONPATH": str(ROOT)})
        for _ in range(6)
    ]  # fmt: skip
    (ident,) = {process.communicate()[0] for process in processes}
    assert ident
    assert [path.name for path in (tmp_path / "s").iterdir()] == [MARKER]


def test_a_store_that_another_program_makes_in_this_moment_is_not_repaired(tmp_path, monkeypatch):
    path, listdir = tmp_path / "s", os.listdir

    def list_late(directory):
        monkeypatch.undo()
        written(path, entry(1))
        return listdir(directory)

    monkeypatch.setattr(os, "listdir", list_late)
    store = Store(path, True, SCHEME)
    assert store.ident == Store(path, False).ident
    assert [name for name in listdir(path) if name.startswith(MARKER)] == [MARKER]


def test_a_store_that_is_read_only_can_be_read(tmp_path, monkeypatch):
    path = written(tmp_path / "s", entry(1))
    real = os.open

    def refuse(name, flags, *rest, **more):  # (the tests may run as root, whom modes do not stop)
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(name, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    assert read(path) == {1: b"payload"}
    with pytest.raises(StoreError, match="cannot be written: Read-only file system"):
        Writer(Store(path, True, SCHEME))


def full_disk(monkeypatch, after):
    """From now on only so many bytes can be written."""
    left, real = [after], os.write

    def write(fd, data):
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = min(left[0], len(data))
        left[0] -= count
        return real(fd, data[:count])

    monkeypatch.setattr(os, "write", write)


@pytest.mark.parametrize("size", [10, form.LARGE + 5])
def test_a_full_disk_is_an_error_and_costs_nothing_that_was_stored(tmp_path, monkeypatch, size):
    writer = Writer(Store(tmp_path / "s", True, SCHEME))
    put(writer, entry(1))
    before = segment_of(tmp_path / "s").read_bytes()
    with monkeypatch.context() as patch:
        full_disk(patch, after=100)
        for number in 2, 3:  # the second does not even try
            with pytest.raises(StoreError, match="cannot be written: No space left on device"):
                put(writer, entry(number, b"x" * size * 20))
        writer.close()
    assert segment_of(tmp_path / "s").read_bytes() == before
    assert not list((tmp_path / "s").glob("large/*"))
    assert read(tmp_path / "s") == {1: b"payload"}
    written(tmp_path / "s", entry(2))
    assert read(tmp_path / "s").keys() == {1, 2}


def test_a_disk_that_is_full_at_the_start_is_told_at_once(tmp_path, monkeypatch):
    opened = Store(tmp_path / "s", True, SCHEME)
    with monkeypatch.context() as patch:
        full_disk(patch, after=5)
        with pytest.raises(StoreError, match="No space left"):
            Writer(opened)
    assert [path.name for path in (tmp_path / "s").iterdir()] == [MARKER]


def test_durable_results_are_on_the_disk_before_they_count(tmp_path, monkeypatch):
    synced = []
    for name in "fsync", "fdatasync":
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda fd, real=real: (synced.append(_target(fd)), real(fd)))
    writer = Writer(Store(tmp_path / "s", True, SCHEME))
    synced.clear()
    put(writer, entry(1))
    assert not synced
    put(writer, entry(2, durable=True))
    assert synced == [str(segment_of(tmp_path / "s")), str(tmp_path / "s"), str(tmp_path)]
    synced.clear()
    put(writer, entry(3, b"x" * (form.LARGE + 1), durable=True))
    (large,) = (tmp_path / "s" / "large").iterdir()
    assert synced == list(map(str, (tmp_path / "s", large, large.parent, segment_of(tmp_path / "s"))))
    writer.close()


# --- versions ---------------------------------------------------------------------------------

VERSIONS = Path(__file__).parent / "stores"


@pytest.mark.parametrize("version", range(1, form.FORMAT + 1))
def test_a_store_of_each_earlier_version_can_be_read_and_written(tmp_path, version):
    path = tmp_path / "s"
    with zipfile.ZipFile(VERSIONS / f"version{version}.zip") as archive:
        archive.extractall(path)
    opened = Store(path, False)
    found = [opened.read(place) for place in opened.places()]
    assert [(f.number, f.function, f.host, f.status, f.when, f.seconds) for f in found] == [
        (1, "simulate", "node1", 0, 1.6e9, 0.25), (2, "other", "node2", 1, 1.7e9, 2.5),
        (3, "simulate", "", 0, 1.8e9, 9.0), (5, "simulate", "node1", 0, 1.9e9, 1.0),
        (6, "simulate", "node1", 0, 2e9, 1.0),
    ]  # fmt: skip
    assert [f.args for f in found] == [b"arguments", None, b"a", b"b", b"b"]
    packed = bytes(range(256)) * 4
    assert [f.payload for f in found] == [b"result", b"", b"large" * 300_000, packed, packed + b"end"]
    assert opened.classes == {b"d" * 16: {b"i" * 16: 0}}
    assert found[-1].definitions == ({b"D" * 16: b"definition"} if version > 1 else {})
    written(path, entry(4))
    assert read(path).keys() == {1, 2, 3, 4, 5, 6}


def test_results_with_keys_of_another_kind_are_counted_but_not_found(tmp_path):
    path = written(tmp_path / "s", entry(1), entry(2))
    opened = Store(path, True, "another")
    assert (opened.index, opened.own_results, opened.others) == ({}, 0, {SCHEME: 2})
    assert read(path).keys() == {1, 2}  # who reads takes all


def test_a_writer_keeps_no_results_in_memory_that_are_stored(tmp_path):
    class Batch(list):
        """A list that can be referred to weakly."""

    writer = Writer(Store(tmp_path / "s", True, SCHEME))
    try:
        batch = Batch([entry(1), entry(2, bytes(3 * 2**20))])
        writer.put(batch, lambda error: None)
        writer.flush()
        kept = weakref.ref(batch)
        del batch
        assert kept() is None
    finally:
        writer.close()
