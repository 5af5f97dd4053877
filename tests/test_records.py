"""What outlives a process that is master and worker: which jobs may have started there."""

from types import SimpleNamespace

import pytest

from cw.master import records
from cw.master.records import Records

IDENT = "0123456789abcdef" * 2
NUMBERS = range(1, 10)


def jobs(session, *numbers):
    """Jobs whose dispatch is 100 more than their number."""
    of = SimpleNamespace(key=session)
    return [SimpleNamespace(session=of, number=number, dispatch=100 + number) for number in numbers]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "records")


def test_the_first_process_finds_nothing(path):
    found = Records.of(path)
    assert found.worker == "" and found.take_lost(7, NUMBERS) == set()


def test_the_next_process_finds_who_was_there_and_what_may_have_started(path):
    before = Records.of(path)
    before.note_worker(IDENT, 4321)
    before.note_held([*jobs(7, 1, 5, 2), *jobs(8, 3)])
    before.note_held(jobs(7, 4))
    before.note_left([105])
    found = Records.of(path)
    assert found.worker == IDENT and found.note["worker"].endswith(":4321")
    assert [found.take_lost(session, NUMBERS) for session in (7, 8, 9)] == [{1, 2, 4}, {3}, set()]
    assert found.take_lost(7, NUMBERS) == set()  # each is charged once
    found.note_held(jobs(7, 2))
    assert Records.of(path).take_lost(7, NUMBERS) == {2}  # and once more if that process dies, too


def test_what_was_not_asked_for_yet_is_found_by_the_process_after_the_next(path):
    Records.of(path).note_held(jobs(7, 1, 2))
    between = Records.of(path)
    between.note_held(jobs(8, 1, 2, 3))  # in places of their own
    between.note_left([101])
    found = Records.of(path)
    assert [found.take_lost(session, NUMBERS) for session in (7, 8)] == [{1, 2}, {2, 3}]
    last = Records.of(path)
    assert last.take_lost(7, NUMBERS) == last.take_lost(8, NUMBERS) == set()


def test_what_nobody_asks_for_leaves_room(path):
    Records.of(path).note_held(jobs(7, 1, 2))
    between = Records.of(path)
    between.forget_lost()
    between.note_held(jobs(8, 3))
    found = Records.of(path)
    assert found.take_lost(7, NUMBERS) == set() and found.take_lost(8, NUMBERS) == {3}


def test_a_session_that_is_over_leaves_room(path, monkeypatch):
    monkeypatch.setattr(records, "JOBS", 4)
    before = Records.of(path)
    for session in range(1, 20):
        before.note_held(jobs(session, 1, 2, 3))
        before.forget(session)
    before.note_held(jobs(5, 9))
    found = Records.of(path)
    assert [found.take_lost(session, NUMBERS) for session in (1, 5, 6)] == [set(), {9}, set()]


def test_what_has_no_room_counts_as_started_until_nobody_asks_any_more(path, monkeypatch):
    monkeypatch.setattr(records, "JOBS", 4)
    before = Records.of(path)
    before.note_held(jobs(7, 1, 2, 3, 4, 5))
    before.note_left([105, 101])
    found = Records.of(path)
    assert found.take_lost(7, NUMBERS) == found.take_lost(8, NUMBERS) == set(NUMBERS)
    assert found.take_lost(7, NUMBERS) == set()  # each is charged once
    between = Records.of(path)  # it has died before all had asked
    assert between.take_lost(8, NUMBERS) == set(NUMBERS)
    between.forget_lost()
    assert between.take_lost(9, NUMBERS) == Records.of(path).take_lost(7, NUMBERS) == set()


def test_without_a_file_all_jobs_count_as_started(tmp_path):
    found = Records.of(str(tmp_path / "missing" / "records"))
    found.note_worker(IDENT, 1)
    found.note_held(jobs(7, 1))
    assert found.take_lost(7, NUMBERS) == set(NUMBERS)
