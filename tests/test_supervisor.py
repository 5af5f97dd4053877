"""A worker that dies is started again, a bounded number of times in a row; one that ends by itself is not."""

import itertools
import random
import signal
import subprocess

import pytest
from conftest import events, wait_until

from cw.client.session import patience
from cw.launch import launcher, supervisor
from cw.launch.launcher import LaunchError, Process
from cw.launch.supervisor import (
    FIRST_WAIT_SECONDS,
    MASTER_SECONDS,
    RESTARTS,
    STEADY_SECONDS,
    Restarts,
    Supervisor,
)
from cw.master.policy import dispatch
from cw.processes import look_at

LIMIT = 20.0


# --- the policy -----------------------------------------------------------------------------


def test_one_that_dies_again_and_again_is_waited_for_longer_and_then_given_up():
    restarts = Restarts()
    waits = [restarts.on_death(0.1) for _ in range(RESTARTS)]
    assert waits[0] == FIRST_WAIT_SECONDS
    assert all(later == 2 * sooner for sooner, later in itertools.pairwise(waits))
    assert restarts.on_death(0.1) is None


def test_a_worker_that_is_the_master_comes_back_before_new_clients_give_up():
    restarts = Restarts(MASTER_SECONDS)
    waits = [restarts.on_death(0.1) for _ in range(RESTARTS)]
    assert max(waits) == MASTER_SECONDS < patience.CONNECT_SECONDS and restarts.on_death(0.1) is None


def test_a_job_that_takes_its_worker_down_is_given_up_before_the_worker_is():
    assert dispatch.WORKER_LOSSES < RESTARTS


@pytest.mark.parametrize("seed", range(30))
def test_deaths_count_from_the_last_worker_that_lived_long(seed):
    chance = random.Random(seed)
    restarts, in_a_row = Restarts(), 0
    for _ in range(200):
        lived = chance.choice([0.0, STEADY_SECONDS / 2, STEADY_SECONDS, 9999.0])
        in_a_row = 1 if lived >= STEADY_SECONDS else in_a_row + 1
        wait = restarts.on_death(lived)
        assert (wait is None) == (in_a_row > RESTARTS)
        assert wait is None or wait == FIRST_WAIT_SECONDS * 2 ** (in_a_row - 1)


# --- on real processes ----------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def start(quick):
    """Start a shell command; what is left of it ends with the test."""
    started = []

    def start(command):
        child = subprocess.Popen(["sh", "-c", command])
        child.returncode = 0  # the launcher's functions wait for it
        started.append(Process(child.pid, look_at(child.pid)[1]))
        return started[-1]

    yield start
    launcher.end_processes(started)


def test_how_a_process_has_ended_is_known_also_when_it_was_reaped(start):
    for command, status in (("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9)):
        process = start(command)
        wait_until(lambda process=process: not process.is_alive(), LIMIT)
        assert process.exit_status() == process.exit_status() == status
    assert start("exec sleep 100").exit_status() is None


def test_one_that_dies_is_started_again_and_it_is_said_in_one_line(start, caplog):
    first, following = start("exec sleep 100"), []

    def start_again(died):
        following.append((died, start("exec sleep 100")))
        return following[-1][1]

    watched = Supervisor(first, start_again, "/logs/worker.log")
    first.send_signal(signal.SIGKILL)
    wait_until(lambda: following and caplog.records, LIMIT)
    watched.end()
    ((died, second),) = following
    assert died == first and second.is_alive()
    assert events(caplog) == ["launch.worker_restarted"]
    for field in (first.pid, "killed by SIGKILL", second.pid, "/logs/worker.log"):
        assert str(field) in caplog.text


@pytest.mark.parametrize("command", ["exit 0", "exec sleep 100"])
def test_one_that_ends_by_itself_or_is_ended_by_its_launcher_stays_away(start, command):
    process = start(command)
    watched = Supervisor(process, pytest.fail, "log")
    if command == "exit 0":
        wait_until(lambda: not watched.is_active(), LIMIT)
    watched.end()
    launcher.end_processes([process])
    assert not watched.is_active()


def test_what_cannot_work_is_given_up_with_what_to_do(start, caplog):
    started = []

    def start_again(died):
        started.append(died)
        return start("exit 7")

    watched = Supervisor(start("exit 7"), start_again, "/logs/worker.log")
    wait_until(lambda: not watched.is_active(), LIMIT)
    assert len(started) == RESTARTS
    assert events(caplog) == ["launch.worker_restarted"] * RESTARTS + ["launch.worker_given_up"]
    text = caplog.messages[-1]
    for field in ("exit status 7", f" {RESTARTS + 1} times", "/logs/worker.log"):
        assert field in text


@pytest.mark.parametrize("error", [OSError(12, "no memory"), LaunchError("no"), RuntimeError("ending"), None])
def test_where_no_other_can_be_started_or_is_wanted_that_is_the_end(start, caplog, error):
    def start_again(died):
        if error:
            raise error

    watched = Supervisor(start("exit 1"), start_again, "log")
    wait_until(lambda: not watched.is_active(), LIMIT)
    assert events(caplog) == ["launch.restart_failed"] * (error is not None)
