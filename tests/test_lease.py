"""The lease of a run: one steward at a time, whoever dies, and wherever."""

import json
import os
import random
import subprocess
import sys
import threading

import pytest

from cw.runs import lease
from cw.runs.folder import Description, RunFolder
from cw.runs.lease import Lease


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create(Description("run", ""))
    return folder


def held_elsewhere(folder, beat=0, number=1):
    """Write a lease as a steward on another machine does."""
    found = {
        "holder": "x",
        "host": "far",
        "machine": "another",
        "process": "1 1",
        "beat": beat,
        "is_released": False,
    }
    folder.write(f"lease-{number:08d}", json.dumps(found).encode())


def test_one_of_many_gets_it(folder):
    leases = [Lease(folder) for _ in range(8)]
    got = []
    threads = [threading.Thread(target=lambda each=each: got.append(each.acquire())) for each in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]
    assert lease.is_held(folder) and lease.holder(folder) == f"pid {os.getpid()} on {os.uname().nodename}"
    assert [each.is_in_force() for each in leases] == [each.number == 1 for each in leases]


def test_a_released_lease_is_free_at_once(folder):
    first, second = Lease(folder), Lease(folder)
    assert first.acquire() and not second.acquire()
    first.release()
    assert not lease.is_held(folder) and lease.holder(folder) == ""
    assert second.acquire() and not first.acquire()


def test_the_lease_of_a_process_that_was_killed_is_free_at_once(folder):
    program = (
        "import os, sys; from cw.runs.folder import RunFolder; from cw.runs.lease import Lease; "
        "print(Lease(RunFolder(sys.argv[1])).acquire(), flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, folder.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "True\n"
        assert not Lease(folder).acquire() and lease.is_held(folder)
        process.kill()
        process.wait()
        assert not lease.is_held(folder)
        assert Lease(folder).acquire()


def test_a_holder_on_another_machine_lives_while_its_beat_goes_on(folder, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    held_elsewhere(folder)
    beats = iter(range(1, 100))
    sleep = lease.time.sleep
    monkeypatch.setattr(
        lease.time, "sleep", lambda seconds: (held_elsewhere(folder, next(beats)), sleep(seconds))
    )
    assert not Lease(folder).acquire(1.0) and lease.is_held(folder, 1.0)


def test_a_holder_on_another_machine_without_a_beat_is_dead(folder, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    held_elsewhere(folder)
    assert not lease.is_held(folder, 0.1)
    mine = Lease(folder)
    assert mine.acquire(0.1) and mine.number == 2


def test_a_holder_that_was_taken_for_dead_sees_it_at_its_next_beat(folder):
    frozen, other = Lease(folder), Lease(folder)
    assert frozen.acquire() and frozen.beat()
    frozen_text = folder.read("lease-00000001")
    held_elsewhere(folder, number=1)  # as if it were on another machine
    assert other.acquire(0.0)
    folder.write("lease-00000001", frozen_text)
    assert not frozen.beat() and not frozen.is_in_force()
    frozen.release()
    assert other.beat() and lease.is_held(folder)


def test_a_damaged_lease_is_free(folder):
    folder.write("lease-00000007", b"{")
    mine = Lease(folder)
    assert mine.acquire() and mine.number == 8


def test_at_most_one_is_in_force_whatever_happens(folder, monkeypatch):
    """Random processes of another machine come, go, freeze, and are taken for dead."""
    monkeypatch.setattr(
        lease, "_machine", lambda: os.urandom(4).hex()
    )  # nobody can look at another's process
    for seed in range(20):
        chance = random.Random(seed)
        leases = [Lease(folder) for _ in range(4)]
        for _ in range(40):
            one = chance.choice(leases)
            if not one.number:
                one.acquire(0.0)
            elif chance.random() < 0.5:
                was = one.is_in_force()
                assert one.beat() == was
            else:
                one.release()
            assert sum(each.is_in_force() for each in leases) <= 1
