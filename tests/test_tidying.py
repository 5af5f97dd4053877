"""A store is tidied: whoever reads or writes it meanwhile, and whatever stops it, each result is there once."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile

import pytest
from conftest import events
from programs import ROOT
from test_store import SCHEME, VERSIONS, entry, full_disk, put, read, segment_of, written

from cw import StoreError
from cw.store import directory, listing
from cw.store import format as form
from cw.store import writer as writing
from cw.store.reader import Store
from cw.store.stream import Stream
from cw.store.tidying import Tidying, tidy
from cw.store.writer import Writer

WEEK = 7 * 86_400


def store_of(path, *programs):
    """A store to which each of these programs has written its entries."""
    for entries in programs:
        written(path, *entries)
        time.sleep(0.002)  # segments are in the order of their names, which begin with the millisecond
    return path


def segments(path):
    return sorted(found.name for found in path.glob("*.seg"))


def killed(path, *entries):
    """A program that was killed has written these: its segment has no end mark."""
    known = set(segments(path)) if path.exists() else set()
    written(path, *entries)
    (name,) = set(segments(path)) - known
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[: -form.SIZE])
    return path / name


def age(path, seconds=WEEK + 60):
    """Let it be that many seconds since this file was changed."""
    os.utime(path, (time.time() - seconds,) * 2)


def seen(path):
    """All that a program sees which opens the store: by key, and one after the other."""
    opened = Store(path, False)
    found = [opened.read(place) for place in opened.places()]
    opened.close()
    streamed = [each.stored.key for each in Stream(path, False)]
    return {each.key: each for each in found}, streamed


def as_it_was(before, after):
    """True if these are the same results. (Definitions are those of the whole segment.)"""
    return {key: each._replace(definitions={}) for key, each in before.items()} == {
        key: each._replace(definitions={}) for key, each in after.items()
    }


def programs():
    """Entries of some programs: errors that were tried again, equal keys, a large result, output."""
    key, other = b"k" * 16, b"o" * 16
    return (
        [entry(1), entry(2, status=1, key=key), entry(3, b"x" * (form.LARGE + 1), key=other)],
        [entry(4, b"", args=b"a" * 5000, function="g"), entry(5, status=1, key=key), entry(6, b"y", host="")],
        [
            entry(7, key=key)._replace(output=(b"out\n", b"\xff")),
            entry(8, b"x" * (form.LARGE + 2), key=other),
        ],
        [entry(9, status=1, key=key), entry(10, function="g", host="node2")._replace(output=(b"", b""))],
    )


# --- what is merged ---------------------------------------------------------------------------


def test_segments_become_one_and_results_that_were_superseded_go(tmp_path):
    path = store_of(tmp_path / "s", *programs())
    before, _ = seen(path)
    done = tidy(path)
    after, streamed = seen(path)
    assert as_it_was(before, after) and sorted(streamed) == sorted(after)
    assert len(segments(path)) == 1 and len(list((path / "large").iterdir())) == 1
    assert (done.merged, done.into, done.kept, done.dropped, done.unused) == (4, 1, 6, 4, 1)
    assert done.bytes_after < done.bytes_before - form.LARGE
    assert str(done).startswith(
        "merged 4 files of results into 1: 6 results; dropped 4 superseded\nremoved 1 large "
    )
    assert sorted(os.listdir(path)) == sorted([directory.MARKER, "large", *segments(path)])
    again = tidy(path)
    assert (again.merged, again.bytes_before) == (0, done.bytes_after) and "nothing to merge" in str(again)
    store_of(path, [entry(11, key=b"k" * 16)], [entry(12)])
    assert tidy(path).dropped == 1 and len(segments(path)) == 1
    assert seen(path)[0].keys() == after.keys() | {entry(12).key}


def test_definitions_and_classes_of_all_programs_stay(tmp_path):
    classes = [(b"d" * 16, b"i" * 16, 0)], [(b"d" * 16, b"j" * 16, 1), (b"d" * 16, b"i" * 16, 0)]
    definitions = {b"D" * 16: b"one"}, {b"D" * 16: b"one", b"E" * 16: b"two"}
    path = store_of(
        tmp_path / "s",
        *([entry(n)._replace(classes=classes[n], definitions=definitions[n])] for n in range(2)),
    )
    size = sum((path / name).stat().st_size for name in segments(path))
    before = Store(path, False).classes
    tidy(path)
    assert Store(path, False).classes == before and segment_of(path).stat().st_size < size + 300
    assert {each.number: each.definitions[b"D" * 16] for each in seen(path)[0].values()} == {
        0: b"one",
        1: b"one",
    }
    assert seen(path)[0][entry(1).key].definitions[b"E" * 16] == b"two"


def test_results_are_in_the_order_of_time_and_each_of_its_program(tmp_path):
    path = store_of(tmp_path / "s", [entry(n) for n in (1, 3, 5)], [entry(n) for n in (2, 4, 6)])
    for _ in range(2):  # as it was, and merged
        found = [(each.stored.number, each.run) for each in Stream(path, False)]
        assert {number % 2: run for number, run in found} == {1: found[0][1], 0: dict(found)[2]}
        assert len(set(dict(found).values())) == 2
        tidy(path)
    opened = Store(path, False)
    assert [opened.read(place).number for place in opened.places()] == [1, 2, 3, 4, 5, 6]


def test_what_a_program_may_still_write_is_left_for_a_week(tmp_path):
    path = tmp_path / "s"
    store_of(path, [entry(1)], [entry(2)])
    last = killed(path, entry(3), entry(4))
    with last.open("ab") as file:
        file.write(form.MAGIC + b"half of a record")
    done = tidy(path)
    assert (done.merged, done.unsettled) == (2, 1) and last.name in segments(path)
    assert "left 1 file to which a program may still write" in str(done)
    age(last, WEEK - 60)
    assert tidy(path).unsettled == 1
    age(last)
    assert tidy(path).merged == 2 and len(segments(path)) == 1 and read(path).keys() == {1, 2, 3, 4}


def test_the_latest_result_stays_the_latest_beside_what_is_not_merged(tmp_path):
    path, key = tmp_path / "s", b"k" * 16
    store_of(path, [entry(1, key=key)], [entry(2)])
    killed(path, entry(3, key=key))
    time.sleep(0.002)
    store_of(path, [entry(4)], [entry(5)])
    tidy(path)
    assert len(segments(path)) == 3 and read(path).keys() == {2, 3, 4, 5}
    for name in segments(path):
        age(path / name)
    tidy(path)
    assert len(segments(path)) == 1 and read(path).keys() == {2, 3, 4, 5}


def test_keys_of_other_kinds_have_segments_of_their_own(tmp_path):
    path = tmp_path / "s"
    for number in range(6):
        writer = Writer(Store(path, True, f"scheme {number % 2}"))
        put(writer, entry(number))
        writer.close()
        time.sleep(0.002)
    tidy(path)
    assert len(segments(path)) == 2 and read(path).keys() == set(range(6))
    assert read(path, "scheme 1").keys() == {1, 3, 5}


def test_a_damaged_segment_is_left_as_it_is(tmp_path):
    path = store_of(tmp_path / "s", [entry(1), entry(2)], [entry(3)], [entry(4)])
    damaged = path / segments(path)[0]
    data = bytearray(damaged.read_bytes())
    data[-2 * form.SIZE] ^= 1
    damaged.write_bytes(data)
    done = tidy(path)
    assert (done.merged, done.damaged) == (2, 1) and damaged.read_bytes() == data
    assert "left 1 damaged file: --verify" in str(done) and read(path).keys() == {1, 3, 4}


@pytest.mark.parametrize("version", range(1, form.FORMAT + 1))
def test_a_store_of_each_earlier_version_can_be_tidied(tmp_path, version):
    path = tmp_path / "s"
    with zipfile.ZipFile(VERSIONS / f"version{version}.zip") as archive:
        archive.extractall(path)
    header = form.first_header(segment_of(path).read_bytes())
    writer = Writer(Store(path, True, header["keys"]))
    put(writer, entry(4))
    writer.close()
    before, _ = seen(path)
    for name in segments(path):
        age(path / name)
    assert tidy(path).merged == 2 and len(segments(path)) == 1
    assert as_it_was(before, seen(path)[0])


def test_large_results_that_nothing_refers_to_go_after_a_week(tmp_path):
    path = store_of(tmp_path / "s", [entry(1, b"x" * (form.LARGE + 1))])
    for name in "old", "new":
        (path / "large" / name).write_bytes(b"left by a program that was killed")
    age(path / "large" / "old")
    assert tidy(path).unused == 1
    assert len(list((path / "large").iterdir())) == 2 and not (path / "large" / "old").exists()
    assert read(path)[1] == b"x" * (form.LARGE + 1)


# --- stopped, or disturbed --------------------------------------------------------------------


def stopped_after(path, steps):
    """Tidy a store, and stop after that many steps as kill -9 would. Returns the last step; None if it was over."""
    tidying = Tidying(str(path))
    done = list(itertools.islice(tidying.steps(), steps))
    tidying.claim.forget()
    # (Its file says that the holder is this very process, which is alive.)
    with contextlib.suppress(FileNotFoundError):
        (path / "tidying").write_text("{}")
        age(path / "tidying")
    return done[-1] if len(done) == steps else None


@pytest.fixture
def no_wait(monkeypatch):
    """Whoever has the right to tidy is dead at once."""
    monkeypatch.setattr("cw.store.claim.DEAD_SECONDS", 0.0)


def test_it_may_be_killed_at_any_step(tmp_path, no_wait):
    """And those that had the store open before find each result, too."""
    names = set()
    for steps in itertools.count(1):
        path = store_of(tmp_path / f"{steps}", *programs())
        before, _ = seen(path)
        readers = [Store(path, False), Store(path, False), Store(path, False)]
        places = [list(reader.places()) for reader in readers]
        for place in places[0][:3]:
            readers[0].read(place)
        readers[1].close()
        last = stopped_after(path, steps)
        after, streamed = seen(path)
        assert as_it_was(before, after), last
        assert len(streamed) == (10 if last in ("claimed", "made", "written") else 6), last
        readers[1].refresh()
        for reader, kept in zip(readers, places, strict=True):
            found = [reader.read(place) for place in kept]
            assert as_it_was(before, {each.key: each for each in found}) and len(found) == len(before), last
            assert len(list(reader.places())) == len(before)
        tidy(path)
        after, streamed = seen(path)
        assert as_it_was(before, after) and len(streamed) == 6 and len(segments(path)) == 1
        assert not [name for name in os.listdir(path) if name.startswith("tidying")]
        for reader in readers:
            assert reader.head(reader.index[entry(1).key]).number == 1
            reader.close()
        if last is None:
            break
        names.add(last)
    assert names == {"claimed", "made", "written", "published", "synced", "removed", "unused"}


def test_nothing_is_removed_before_what_replaces_it_is_on_the_disk(tmp_path, monkeypatch):
    path = store_of(tmp_path / "s", *programs())
    done = []

    def spy(name, shown):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, **more: (done.append((name, shown(*args))), real(*args, **more))[1]
        )

    for name in "fsync", "fdatasync":
        spy(name, lambda fd: os.readlink(f"/proc/self/fd/{fd}"))
    spy("rename", lambda source, target: str(target))
    spy("unlink", str)
    old = [str(path / name) for name in segments(path)]
    tidy(path)
    merged = str(segment_of(path))
    rename = done.index(("rename", merged))
    assert done[rename - 1][0] == "fsync" and done[rename - 1][1].endswith(".tmp")
    assert done[rename + 1] == ("fsync", str(path))
    assert done[rename + 2 : rename + 6] == [("unlink", name) for name in old]
    assert done[rename + 6] == ("fsync", str(path))
    assert {("fsync", name) for name in old} <= set(
        done[:rename]
    )  # one group's result may supersede another's


def test_no_room_on_the_disk_costs_nothing(tmp_path, monkeypatch):
    path = store_of(tmp_path / "s", *([entry(10 * n + k, b"x" * 10_000) for k in range(9)] for n in range(3)))
    names, before = segments(path), seen(path)
    with monkeypatch.context() as patch:
        full_disk(patch, after=100_000)
        with pytest.raises(StoreError, match="No space left on device. Nothing is lost. Make room for 27.kB"):
            tidy(path)
    assert segments(path) == names and seen(path) == before
    assert sorted(os.listdir(path)) == sorted([directory.MARKER, *names])
    tidy(path)
    assert as_it_was(before[0], seen(path)[0])


def test_a_program_that_slept_for_a_week_goes_on_in_another_segment(tmp_path, monkeypatch):
    path = tmp_path / "s"
    written(path, entry(0))
    sleeper = Writer(Store(path, True, SCHEME))
    put(sleeper, entry(1), entry(2))
    age(path / segments(path)[-1])
    assert tidy(path).merged == 2
    put(sleeper, entry(3))
    put(sleeper, entry(4, b"x" * (form.LARGE + 1)))
    reader = sleeper.store
    assert sorted(reader.read(place).number for place in reader.places()) == [0, 1, 2, 3, 4]
    assert len(segments(path)) == 2 and read(path).keys() == {0, 1, 2, 3, 4}
    sleeper.close()
    tidy(path)
    assert len(segments(path)) == 1 and read(path).keys() == {0, 1, 2, 3, 4}


def test_a_segment_that_is_merged_and_grows_counts_from_there_on(tmp_path, monkeypatch):
    """Its program woke up between the reading and the removal."""
    path = tmp_path / "s"
    written(path, entry(0))
    sleeper = Writer(Store(path, True, SCHEME))
    put(sleeper, entry(1), entry(2, function="g"))
    reader = Store(path, False)
    age(path / segments(path)[-1])
    tidying = Tidying(str(path))
    for step in tidying.steps():
        if step == "published":
            put(sleeper, entry(3, function="g"))
    tidying.claim.release()
    assert len(segments(path)) == 2 and read(path).keys() == {0, 1, 2, 3}
    assert len(seen(path)[1]) == 4
    reader.refresh()
    assert sorted(reader.read(place).number for place in reader.places()) == [0, 1, 2, 3]
    put(sleeper, entry(4))
    sleeper.close()
    tidy(path)
    assert len(segments(path)) == 1 and read(path).keys() == {0, 1, 2, 3, 4} and len(seen(path)[1]) == 5


def test_what_was_written_in_the_moment_of_the_removal_is_put_back(tmp_path, monkeypatch):
    path = tmp_path / "s"
    written(path, entry(0))
    late = killed(path, entry(1))
    age(late)
    tail = written(tmp_path / "t", entry(2))
    record = segment_of(tail).read_bytes()[-3 * form.SIZE - len(b"argspayload") : -form.SIZE]
    real = os.unlink

    def unlink(name, *rest):
        if str(name) == str(late):
            with late.open("ab") as file:
                file.write(record[record.find(form.MAGIC) :])
        real(name, *rest)

    monkeypatch.setattr(os, "unlink", unlink)
    tidy(path)
    assert late.exists() and read(path).keys() == {0, 1, 2}


def test_a_writer_shows_that_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "TOUCH_SECONDS", 0.05)
    path = tmp_path / "s"
    writer = Writer(Store(path, True, SCHEME))
    put(writer, entry(1))
    age(segment_of(path))
    limit = time.monotonic() + 10
    while time.time() - segment_of(path).stat().st_mtime > WEEK:
        assert time.monotonic() < limit
        time.sleep(0.01)
    put(writer, entry(2))
    writer.close()
    assert read(path).keys() == {1, 2}


def test_a_list_made_in_the_middle_of_it_is_made_again(tmp_path, monkeypatch):
    """It may have neither the merged segment, nor those that were removed."""
    path = store_of(tmp_path / "s", *programs())
    before, _ = seen(path)
    real, torn = os.listdir, []

    def list_in_the_middle(name):
        if str(name) == str(path) and not torn:
            torn.append(1)
            tidy(path)
            return [name for name in real(path) if not name.endswith(".seg")]
        return real(name)

    monkeypatch.setattr(os, "listdir", list_in_the_middle)
    assert as_it_was(before, seen(path)[0]) and torn


def test_a_list_that_is_late_is_waited_for(tmp_path, monkeypatch, caplog):
    """A network file system may list for a while what another machine has removed."""
    path = store_of(tmp_path / "s", *programs())
    before, _ = seen(path)
    old, real, end = os.listdir(path), os.listdir, time.monotonic() + 1.3
    tidy(path)
    monkeypatch.setattr(
        os, "listdir", lambda name: real(name) if str(name) != str(path) or time.monotonic() > end else old
    )
    with caplog.at_level("INFO"):
        assert as_it_was(before, seen(path)[0])
    assert "store.listing_late" in events(caplog)
    monkeypatch.setattr(listing, "LATE_SECONDS", 0.1)
    end = time.monotonic() + 60
    assert not Store(path, False).index  # in the end it goes on with what there is


def test_results_that_were_dropped_lead_to_what_has_superseded_them(tmp_path):
    path, key = tmp_path / "s", b"k" * 16
    store_of(path, [entry(1, b"first", key=key, status=1)])
    reader = Store(path, False)
    (place,) = reader.places()
    reader.close()
    store_of(path, [entry(2, b"second", key=key)])
    reader.refresh()
    reader.close()
    tidy(path)
    assert (reader.read(place).number, reader.head(place).number) == (2, 2)


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_events_leaves_each_result_once(tmp_path, seed, no_wait):
    """Programs write, are killed and grow old, tidyings are stopped; readers look whenever they like."""
    chance, path, expected, numbers = random.Random(seed), tmp_path / "s", {}, itertools.count()
    written(path, entry(next(numbers), key=b"first".ljust(16)))
    expected[b"first".ljust(16)] = {0}
    readers = [Store(path, False)]
    held = []
    for _ in range(25):
        event = chance.choice(
            ["write", "write", "kill", "age", "stop", "stop", "tidy", "open", "look", "look"]
        )
        if event in ("write", "kill"):
            time.sleep(0.002)
            entries = []
            for _ in range(chance.randrange(4)):
                key, number = b"%x" % chance.randrange(12), next(numbers)
                entries.append(entry(number, b"%d" % number, key=key.ljust(16), status=chance.random() < 0.3))
                kept = expected.setdefault(key.ljust(16), set())
                is_done = any(number >= 0 for number in kept)
                if not entries[-1].status or not is_done:
                    kept.clear()
                    kept.add(number if not entries[-1].status else -number)
            if entries:
                killed(path, *entries) if event == "kill" else written(path, *entries)
        elif event == "age":
            for name in segments(path):
                age(path / name)
        elif event == "stop":
            stopped_after(path, chance.randrange(1, 9))
        elif event == "tidy":
            tidy(path)
        elif event == "open":
            readers.append(Store(path, False))
            held.append(
                (readers[-1], [(place, readers[-1].head(place).key) for place in readers[-1].places()])
            )
        elif event == "look":
            check(path, chance.choice(readers), expected)
            for reader, places in held[-2:]:
                assert all(reader.read(place).key == key for place, key in places)
    for reader in [*readers, Store(path, False)]:
        check(path, reader, expected)
        reader.close()


def check(path, reader, expected):
    reader.refresh()
    found = [reader.read(place) for place in reader.places()]
    assert {each.key: {-each.number if each.status else each.number} for each in found} == expected
    keys = [(each.stored.key, each.stored.number) for each in Stream(path, False)]
    assert len(keys) == len(set(keys))


# --- with other processes ---------------------------------------------------------------------

TIDY = "import sys; from cw.store.tidying import tidy; print(tidy(sys.argv[1]))"


def start(path, code=TIDY):
    return subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip


def test_several_at_once_a_writer_a_reader_and_kill_9(tmp_path):
    path, chance = tmp_path / "s", random.Random(1)
    store_of(path, *([entry(100 * n + k, b"x" * 5000) for k in range(100)] for n in range(8)))
    is_over, failures, rounds = threading.Event(), [], []

    def look():
        reader = Store(path, False)
        while not is_over.is_set():
            try:
                known = list(reader.places())
                found = {reader.read(place).number for place in known}
                streamed = [each.stored.number for each in Stream(path, False)]
                rounds.append(1)
                if (
                    len(found) != len(known)
                    or not set(range(800)) <= found
                    or len(streamed) < len(set(streamed))
                ):
                    failures.append(f"{len(found)} {len(known)} {len(streamed)}")
            except directory.FileGone as error:
                if "Stream" in str(error):
                    failures.append(error)
            except Exception as error:
                failures.append(error)
            reader.refresh()

    thread = threading.Thread(target=look)
    thread.start()
    writer = Writer(Store(path, True, SCHEME))
    try:
        for number in range(3):
            tidiers = [start(path) for _ in range(2)]
            put(writer, *(entry(1000 + 10 * number + k) for k in range(10)))
            time.sleep(chance.uniform(0.2, 0.8))  # a chance to be killed anywhere
            tidiers[0].send_signal(signal.SIGKILL)
            for tidier in tidiers:
                out, err = tidier.communicate(timeout=90)
                assert (
                    tidier.returncode in (0, -9) or "is being tidied" in err or "has begun to tidy" in err
                ), err
            store_of(path, [entry(2000 + 10 * number + k) for k in range(10)])
    finally:
        is_over.set()
        thread.join()
        writer.close()
    assert not failures and rounds
    tidy(path)
    expected = {*range(800), *range(1000, 1030), *range(2000, 2030)}
    assert read(path).keys() == expected and len(segments(path)) == 1
    assert sorted(each.stored.number for each in Stream(path, False)) == sorted(expected)
