"""A run goes from its script to a steward: whoever is killed between any two steps, each call runs once."""

import os
from pathlib import Path

import pytest
from conftest import wait_until
from programs import LIMIT, Master, Program, Worker, free_port

import cw
from cw.runs import lease
from cw.runs.folder import ENDED, SCRIPT, RunFolder

SCRIPT_FILE = Path(__file__).parent / "scripts" / "handed_over.py"
CALLS = 12

MATRIX = [
    # who : in which module : at which step : before or after it : whom it kills
    "script:cw.runs.handing_over:_Transfer._write:after:script",
    "script:cw.runs.handing_over:_Transfer._write:after:master",
    "script:cw.runs.handing_over:_Transfer._wait:before:script",
    "script:cw.runs.handing_over:_Transfer._wait:before:master",
    "script:cw.runs.handing_over:_Transfer._wait:after:script",
    "script:cw.client.session.handover:Handover.leave:after:script",
    "steward:cw.detached.steward:Steward._make_session:before:steward",
    "steward:cw.detached.steward:Steward._make_session:before:script",
    "steward:cw.detached.backlog:Backlog.load_sent:after:steward",
    "steward:cw.detached.steward:Steward._take_over:before:steward",
    "steward:cw.detached.steward:Steward._take_over:before:script",
    "steward:cw.detached.steward:Steward._take_over:before:master",
    "steward:cw.detached.steward:Steward._take_over:after:steward",
    "steward:cw.detached.steward:Steward._take_over:after:script",
    "steward:cw.detached.steward:Steward._take_over:after:master",
    "steward:cw.detached.recorder:Recorder.put:before:steward",
    "steward:cw.detached.recorder:Recorder.put:before:master",
    "steward:cw.detached.recorder:Recorder.put:after:steward",
    "steward:cw.detached.recorder:Recorder.put:after:master",
    "steward:cw.runs.lease:Lease.beat:after:steward",
    "steward:cw.client.session.exchange:Exchange.leave:before:steward",
    "steward:cw.client.session.exchange:Exchange.leave:before:master",
    "steward:cw.detached.recorder:Recorder.close:before:steward",
    "steward:cw.detached.steward:Steward._hold:after:steward",
]
TELLING = {MATRIX[2], MATRIX[14], MATRIX[15]}
"""Those that the ordinary tests take; the slow ones take MORE, and `ALL_STEPS=1 pytest -m slow` all."""

MORE = {MATRIX[n] for n in (1, 6, 9, 11, 12, 20)}


class Run:
    """A master, a worker, and a run that one of them may not outlive."""

    def __init__(self, directory, kill=""):
        self.directory = directory
        self.folder = RunFolder(directory / "sweep.cw" / "runs" / "sweep")
        self.port = free_port()
        self.environment = {"MASTER": f"127.0.0.1:{self.port}", "SECONDS": "0.1"}
        self.master = Master("--port", self.port)
        self.worker = Worker(f"127.0.0.1:{self.port}", "-n", "2")
        (directory / "master.pid").write_text(str(self.master.pid))
        self.script = self.start("script", KILL=kill)
        self.others = []

    def start(self, role, **environment):
        return Program(SCRIPT_FILE, role, self.folder.path, **self.environment, **environment)

    def look_after(self):
        """Do what those do who look: start a master, and a steward, if there is none. True: the run is over."""
        if self.master.process.poll() is not None:
            self.master = Master("--port", self.port)
            self.others.append(self.master)
        if not self.folder.exists():
            return False
        state = self.folder.state()
        is_gone = self.script.process.poll() is not None
        if state.is_over or (state.phase == SCRIPT and is_gone):
            return True
        if self.script.process.poll() is not None and not lease.is_held(self.folder):
            self.others.append(self.start("steward"))
            wait_until(
                lambda: lease.is_held(self.folder) or self.others[-1].process.poll() is not None, LIMIT
            )
        return False

    def kill(self, pid, number):
        os.kill(pid, number)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for program in (self.script, *self.others, self.worker, self.master):
            program.__exit__()


def marks(directory):
    return {int(path.name.partition("-")[2]): path.read_text() for path in directory.glob("ran-*")}


def check_results(store):
    found = {result.args[0]: result for result in cw.results(store)}
    values = {n: None if result.failed else result.value for n, result in found.items()}
    values[CALLS - 1] = values[CALLS - 1].value  # of a class of the script, which is another program
    assert values == {n: None if n == 7 else n * n for n in range(CALLS)}
    assert isinstance(found[7].error, ValueError) and str(found[7].error) == "seven"


def run_to_its_end(directory, kill):
    with Run(directory, kill) as run:
        wait_until(run.look_after, 4 * LIMIT, lambda: (run.folder.state(), log_of(run)))
        if kill:
            assert (directory / "killed").exists(), "the step never came"
        state = run.folder.state()
        if state.phase == SCRIPT:  # it has kept the run, and ended it
            assert "kept: the run cannot be handed over: its steward has died" in run.script.out
        else:
            assert (state.phase, state.calls - state.done - state.failed) == (ENDED, 0), log_of(run)
        assert marks(directory) == dict.fromkeys(range(CALLS), "()"), log_of(run)
        check_results(directory / "sweep.cw")
        return run


def log_of(run):
    log = Path(run.folder.place("steward.log"))
    return run.script.err, log.read_text() if log.exists() else "", *(other.err for other in run.others)


def steps():
    for kill in MATRIX:
        if kill in TELLING:
            yield kill
        elif kill in MORE or os.environ.get("ALL_STEPS"):
            yield pytest.param(kill, marks=pytest.mark.slow)


@pytest.mark.parametrize("kill", list(steps()))
def test_each_call_runs_once_whoever_is_killed(tmp_path, kill):
    run_to_its_end(tmp_path, kill)


@pytest.mark.slow
def test_a_run_is_handed_over_and_ends(tmp_path):
    run = run_to_its_end(tmp_path, "")
    assert run.script.out.endswith("handed over\n") and not run.others
    with open(run.folder.output) as file:
        assert "works on 11" in file.read()
