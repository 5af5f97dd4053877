"""What outlives a process that is master and worker: which jobs may have started there."""

from types import SimpleNamespace

import pytest

from cw.master.records import MOST, SESSIONS, Records

IDENT = "0123456789abcdef" * 2


def jobs(session, *numbers):
    return [SimpleNamespace(session=SimpleNamespace(key=session), number=number) for number in numbers]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "records")


def test_the_first_process_finds_nothing(path):
    found = Records.of(path)
    assert found.worker == "" and found.lost_up_to(7) == 0


def test_the_next_process_finds_who_was_there_and_what_may_have_started(path):
    before = Records.of(path)
    before.note_worker(IDENT, 4321)
    before.note_sent([*jobs(7, 1, 5, 2), *jobs(8, 3)])
    before.note_sent(jobs(7, 4))
    found = Records.of(path)
    assert found.worker == IDENT and found.note["worker"].endswith(":4321")
    assert [found.lost_up_to(session) for session in (7, 8, 9)] == [5, 3, 0]
    assert found.lost_up_to(7) == 0  # it is charged once
    found.note_sent(jobs(7, 2))
    assert Records.of(path).lost_up_to(7) == 5  # and once more if that process dies, too


def test_a_session_that_is_over_leaves_room(path):
    before = Records.of(path)
    for session in range(1, 2 * SESSIONS):
        before.note_sent(jobs(session, 1))
        before.forget(session)
    before.note_sent(jobs(5, 9))
    found = Records.of(path)
    assert [found.lost_up_to(session) for session in (1, 5, 6)] == [0, 9, 0]


def test_what_has_no_room_counts_as_started(path):
    before = Records.of(path)
    for session in range(1, SESSIONS + 2):
        before.note_sent(jobs(session, 3))
    found = Records.of(path)
    assert [found.lost_up_to(session) for session in (1, SESSIONS, SESSIONS + 1)] == [3, 3, MOST]


def test_without_a_file_all_jobs_count_as_started(tmp_path):
    found = Records.of(str(tmp_path / "missing" / "records"))
    found.note_worker(IDENT, 1)
    found.note_sent(jobs(7, 1))
    assert found.lost_up_to(7) == MOST
