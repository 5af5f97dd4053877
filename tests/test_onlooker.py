"""Looking after a run from outside: who lives, who does not, and what is done about it."""

import os

import pytest
from conftest import events

from cw import processes
from cw.errors import DetachError
from cw.runs import onlooker
from cw.runs.folder import CANCELLED, ENDED, HANDING_OVER, SCRIPT, STEWARD, Description, RunFolder, RunState
from cw.runs.lease import Lease
from cw.runs.onlooker import Onlooker, is_live, is_owned

HERE = os.uname().nodename
PARENT = RunState(SCRIPT, HERE, os.getppid(), processes.identity(os.getppid()))


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "sweep")
    folder.create(Description("sweep", ""))
    folder.write_state(PARENT)
    return folder


def test_a_run_lives_with_its_script(folder):
    assert is_owned(folder) and is_live(folder)
    folder.write_state(PARENT._replace(start="another process of that number"))
    assert not is_owned(folder) and not is_live(folder)


def test_a_script_on_another_machine_lives_while_its_state_changes(folder, monkeypatch):
    folder.write_state(PARENT._replace(host="another"))
    assert not is_live(folder, seconds=0.1)
    beats = []

    def sleep(seconds):
        beats.append(seconds)
        folder.write_state(PARENT._replace(host="another", beat=len(beats)))

    monkeypatch.setattr(onlooker.time, "sleep", sleep)
    assert is_live(folder, seconds=5) and len(beats) == 1


@pytest.mark.parametrize("phase", [HANDING_OVER, STEWARD])
def test_what_a_steward_holds_or_may_hold_lives_and_has_an_owner_with_the_lease(folder, phase):
    folder.write_state(PARENT._replace(phase=phase))
    assert is_live(folder) and not is_owned(folder)
    assert Lease(folder).acquire() and is_owned(folder)


def test_what_is_over_or_gone_does_not_live(folder, tmp_path):
    for phase in ENDED, CANCELLED:
        folder.write_state(PARENT._replace(phase=phase))
        assert not is_live(folder)
    assert not is_live(RunFolder(tmp_path / "none"))


def test_a_steward_is_started_when_the_run_is_silent_and_nobody_has_it(folder):
    started = []
    looker = Onlooker(folder, started.append)
    folder.write_state(PARENT._replace(phase=STEWARD, beat=1))
    looker.look(100.0)
    looker.look(104.0)
    assert started == []  # it may be slow
    folder.write_state(PARENT._replace(phase=STEWARD, beat=2))
    looker.look(106.0)
    looker.look(110.0)
    assert started == []  # it has given a sign of life
    looker.look(111.0)
    looker.look(120.0)
    assert started == [folder]  # one at a time
    looker.look(145.0)
    assert started == [folder, folder] and not looker.is_over
    assert Lease(folder).acquire()
    looker.look(200.0)
    assert started == [folder, folder]  # it has the run, and is only silent


def test_what_a_dead_script_has_not_handed_over_is_over(folder):
    looker = Onlooker(folder, lambda folder: pytest.fail("there is nothing to start"))
    folder.write_state(PARENT._replace(start="another process"))
    looker.look(0.0)
    assert not looker.is_over
    looker.look(10.0)
    assert looker.is_over


def test_the_end_of_a_run_and_of_its_folder_are_seen_at_once(folder):
    looker = Onlooker(folder, lambda folder: None)
    looker.look(0.0)
    folder.write_state(PARENT._replace(phase=ENDED, done=7))
    assert looker.look(0.1).done == 7 and looker.is_over
    gone = Onlooker(RunFolder(folder.place("none")), lambda folder: None)
    gone.look(0.0)
    assert gone.is_over


def test_a_steward_that_cannot_be_started_is_said(folder, caplog):
    def fail(folder):
        raise DetachError("no Python there")

    folder.write_state(PARENT._replace(phase=STEWARD))
    looker = Onlooker(folder, fail)
    for now in (0.0, 10.0, 20.0):
        looker.look(now)
    assert events(caplog) == ["runs.start_failed"] and "no Python there" in caplog.text
