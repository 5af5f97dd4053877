"""Which runs need a steward, as a keeper sees it; and how programs know that there is a keeper."""

import random

import pytest

from cw.runs import keeping, lease
from cw.runs.folder import ENDED, HANDING_OVER, PHASES, SCRIPT, STEWARD, RunFolder, RunState
from cw.runs.keeping import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, SILENT_SECONDS, Watch


def test_a_run_needs_a_steward_when_it_is_asked_for_or_when_its_own_has_died():
    assert not Watch().needs_steward(RunState(SCRIPT), False, False, 0.0)
    assert Watch().needs_steward(RunState(HANDING_OVER), True, False, 0.0)
    assert not Watch().needs_steward(RunState(HANDING_OVER), False, False, 0.0)
    assert Watch().needs_steward(RunState(STEWARD), False, False, 0.0)
    assert not Watch().needs_steward(RunState(STEWARD), True, True, 0.0)
    assert not Watch().needs_steward(RunState(ENDED), True, False, 0.0)


def test_one_that_cannot_work_is_started_ever_more_rarely():
    watch, starts = Watch(), []
    for second in range(2000):
        if watch.needs_steward(RunState(STEWARD), False, False, float(second)):
            starts.append(second)
    waits = [after - before for before, after in zip(starts, starts[1:], strict=False)]
    assert waits[:3] == [2, 4, 8] and max(waits) <= LONGEST_WAIT_SECONDS + 1 and waits == sorted(waits)
    assert not watch.needs_steward(RunState(STEWARD), False, True, 2000.0)  # it works
    assert watch.needs_steward(RunState(STEWARD), False, False, starts[-1] + LONGEST_WAIT_SECONDS)


@pytest.mark.parametrize("seed", range(10))
def test_no_steward_is_started_beside_one_that_lives_nor_twice_at_once(seed):
    chance, watch, now, last = random.Random(seed), Watch(), 0.0, -10.0
    for _ in range(500):
        now += chance.uniform(0.0, 3.0)
        state, is_held = RunState(chance.choice(PHASES)), chance.random() < 0.3
        if watch.needs_steward(state, chance.random() < 0.5, is_held, now):
            assert not is_held and not state.is_over and now - last >= FIRST_WAIT_SECONDS
            last = now


def test_a_state_that_does_not_change_is_silence():
    watch = Watch()
    assert not watch.is_silent(RunState(STEWARD, beat=4), 0.0)
    assert not watch.is_silent(RunState(STEWARD, beat=4), SILENT_SECONDS - 1)
    assert watch.is_silent(RunState(STEWARD, beat=4), SILENT_SECONDS)
    assert not watch.is_silent(RunState(STEWARD, beat=5), SILENT_SECONDS)


def test_a_keeper_is_known_by_its_lease(tmp_path, monkeypatch):
    monkeypatch.setenv("CW_HOME", str(tmp_path))
    place = keeping.folder_of_cluster("second")
    assert not keeping.has_keeper(place)
    (tmp_path / "keepers" / "second").mkdir(parents=True)
    held = lease.Lease(place)
    assert held.acquire()
    assert keeping.has_keeper(place) and not keeping.has_keeper(keeping.folder_of_cluster(""))
    held.release()
    assert not keeping.has_keeper(place)


def test_a_steward_on_another_machine_is_there_as_long_as_its_state_changes(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    held = lease.Lease(folder)
    assert held.acquire()
    assert keeping.is_held(folder, is_silent=True)  # a process of this machine, which lives
    monkeypatch.setattr(lease, "_machine", lambda: "another")
    assert not keeping.is_held(folder, is_silent=False)  # this machine's name, but not its process
    monkeypatch.setattr(lease, "holder", lambda folder: "pid 7 on node7")
    assert keeping.is_held(folder, is_silent=False) and not keeping.is_held(folder, is_silent=True)
