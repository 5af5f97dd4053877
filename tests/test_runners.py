"""Which forkserver a runner is forked from: strings have the same hashes in all runners of a client."""

import os
import subprocess
import sys

import pytest
from programs import LIMIT, Master, Worker, run_script

import cw
from cw import credential

SCRIPT = """
import cw

def look(_):
    return hash("gene-1"), "".join(set("abcde"))

with cw.ClusterExecutor() as executor:
    print(*executor.map(look, range(4)))
"""


def hash_with(seed):
    """What Python itself makes of it."""
    code = 'print((hash("gene-1"), "".join(set("abcde"))))'
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def master():
    with Master() as master:
        yield master


def looked_at(directory, master, **environment):
    """The different things that four jobs saw."""
    text = run_script(directory, SCRIPT, CW_MASTER=master.address, **environment)[0]
    return {f"({found})" for found in text.strip().strip("()").split(") (")}


def test_hashes_are_the_same_in_all_workers_and_after_a_restart(master, tmp_path):
    right = hash_with(credential.load().hash_seed())
    for _ in range(2):
        with Worker(master.address), Worker(master.address):
            assert looked_at(tmp_path, master) == {right}


@pytest.mark.slow
def test_hashes_are_those_of_the_clients_seed_else_of_the_workers(master, tmp_path):
    with Worker(master.address, "-n", "2", PYTHONHASHSEED="5"):
        assert looked_at(tmp_path, master) == {hash_with("5")}
        assert looked_at(tmp_path, master, PYTHONHASHSEED="7") == {hash_with("7")}
        assert looked_at(tmp_path, master, PYTHONHASHSEED="random") == {hash_with("5")}
    with Worker(master.address, PYTHONHASHSEED="random"):
        assert looked_at(tmp_path, master) == {hash_with(credential.load().hash_seed())}


def test_programs_that_a_job_starts_have_the_same_hashes(master):
    with Worker(master.address), cw.ClusterExecutor(master.address) as executor:
        found = executor.submit(lambda: os.environ.get("PYTHONHASHSEED")).result(LIMIT)
    assert found == credential.load().hash_seed()


RUNNERS = """
import os, signal, sys, time

from cw.net import messages as m
from cw.net.loop import Loop
from cw.net.objects import Object
from cw.payloads.environment import dump_environment
from cw.worker.policy import pool
from cw.worker.runners import binding, reaping, runners

reaping.set_subreaper()
loop, alarms, gone = Loop(), [], []
loop.call_later = lambda seconds, callback: alarms.append((seconds, callback))
all = runners.Runners(loop, binding.Binder(1))
all.on_gone = lambda runner: None
all.on_exited = lambda runner, unstarted, note: gone.append(runner.key)

def start(key, seed):
    os.environ["PYTHONHASHSEED"] = seed
    runner = pool.PooledRunner(key, pool.Slot(0), (key, 0, 0, ()))
    all.start(runner, Object(key, dump_environment(), m.ENVIRONMENT))
    until(lambda: key in all._pids)
    return runner

def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        loop._handle(loop._epoll.poll(0.01))

"""


def run_runners(directory, source):
    """Run a program that has runners of its own, and no other children."""
    return run_script(directory, RUNNERS + source)[0].split()


def test_files_that_came_for_a_runner_stay_a_while_after_it_has_ended(tmp_path):
    source = """
from pathlib import Path
runner = start(1, "7")
copy = Path(all._forkservers["7"]._scratch) / "files-abc"
copy.mkdir(parents=True)
all.end(runner)
until(lambda: gone)
(sweep,) = [callback for _, callback in alarms if callback.__name__ == "_sweep"]
print(copy.exists())
sweep()
until(lambda: not copy.exists())
all.close()
print(copy.parent.exists())
"""
    assert run_runners(tmp_path, source) == ["True", "False"]


def test_a_forkserver_for_a_clients_seed_ends_when_it_is_idle(tmp_path):
    source = """
first, second = start(1, "7"), start(2, "7")
own = start(3, "")
print(len(reaping.children()))
for runner in (first, second, own):
    all.end(runner)
    until(lambda: runner.key in gone)
    for seconds, callback in alarms:
        if seconds == runners.FORKSERVER_SECONDS:
            callback()
    print(len(reaping.children()))
all.close()
print(len(reaping.children()))
"""
    assert run_runners(tmp_path, source) == ["2", "2", "1", "1", "0"]


def test_the_end_of_one_keeper_leaves_the_others_alone(tmp_path):
    source = """
first, second = start(1, "7"), start(2, "8")
os.kill(all._forkservers["7"].pid, signal.SIGKILL)
until(lambda: gone)
loop._handle(loop._epoll.poll(0.1))
print(*gone)
third = start(3, "7")
os.kill(all._pids[2], signal.SIGKILL)
until(lambda: 2 in gone)
print(*gone)
all.close()
print(len(reaping.children()))
"""
    assert run_runners(tmp_path, source) == ["1", "1", "2", "0"]
