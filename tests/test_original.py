"""Programs written for Adrian Sampson's cluster-workers, unchanged. (tests/test_slurm.py has those in Slurm.)"""

import ast
import inspect
import os
import pickle
from pathlib import Path

import jobs
import pytest
from programs import LIMIT, ROOT, Master, Program, Worker, free_port

import cw
from cw.client.futures import remote

SCRIPTS = Path(__file__).parent / "scripts"


def run(*arguments, status=0, **environment):
    """Run a script to its end, in an own home; what it printed."""
    with Program(*arguments, **environment) as program:
        assert program.wait() == status, program.err
        return program.out


@pytest.fixture(scope="module")
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def master():
    """The address of a master with two slots."""
    with Master() as master, Worker(master.address, "-n", "2"):
        yield master.address


# --- names ------------------------------------------------------------------------------------


def test_its_names_and_arguments_are_there():
    launchers = [cw, cw.mp, cw.slurm]
    for module in launchers:
        names = list(inspect.signature(module.start).parameters)
        assert (
            names[:7]
            == "nworkers master workers master_options worker_options docker_image docker_args".split()
        )
        assert list(inspect.signature(module.allocate).parameters)[:7] == names[:7]
        assert list(inspect.signature(module.stop).parameters)[:2] == ["master", "workers"]
    for name in ("PORT", "randid", "is_slurm_available", "slurm_master_host"):
        assert hasattr(cw, name)
    for kind in ("Client", "BaseClientThread", "ClientThread", "ClusterExecutor"):
        parameters = inspect.signature(getattr(cw.client, kind)).parameters
        assert [name for name in parameters if name in ("callback", "host", "port")][-2:] == ["host", "port"]
    assert cw.client.SlurmExecutor and cw.client.RemoteException


def test_where_no_slurm_answers_none_is_available(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    assert cw.is_slurm_available() is False


# --- clients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("jobid", ["a", b"a", ("a", 1), 2**100, -1, None])
def test_an_id_is_what_the_program_says(cluster, jobid, tmp_path):
    calls = []
    jobid = cw.randid() if jobid is None else jobid
    with cw.client.ClientThread(lambda *call: calls.append(call)) as thread:
        assert thread.submit(jobid, jobs.until, tmp_path / "go", 9) == jobid
        with pytest.raises(ValueError, match="is outstanding"):
            thread.submit(jobid, jobs.square, 4)
        jobs.mark(tmp_path / "go")
        thread.wait(LIMIT)
        assert not thread.cancel(jobid)
    assert calls == [(jobid, 9)]


def test_a_job_with_a_text_as_its_id_can_be_cancelled_and_its_messages_name_it(cluster, tmp_path):
    errors = []
    with cw.client.ClientThread(on_error=lambda *call: errors.append(call)) as thread:
        thread.submit("long", jobs.until, tmp_path / "never")
        assert thread.cancel("long")
        thread.options(timeout=0.2).submit(("too", "long"), jobs.until, tmp_path / "never")
    (_, cancelled), (_, late) = sorted(errors, key=lambda call: isinstance(call[1], cw.JobTimeout))
    assert type(cancelled).__name__ == "Abandoned" and "job ('too', 'long') ran longer" in str(late)


def test_function_and_id_may_be_given_by_name(cluster):
    calls = []
    with cw.client.ClientThread(lambda *call: calls.append(call)) as thread:
        thread.submit(jobid="by name", func=jobs.add, a=1, b=2)
        thread.submit(7, func=jobs.add, a=3)
        number = thread.submit(func=jobs.add, a=4)
        thread.submit(jobs.add, jobid=10, func=20)  # the function's own
        with pytest.raises(TypeError, match="a function first"):
            thread.submit(jobid=8)
    assert sorted(calls, key=repr) == sorted(
        [("by name", 3), (7, 3), (number, 4), (number + 1, 30)], key=repr
    )


def test_active_jobs_counts_what_has_not_called_back(cluster, tmp_path):
    seen = []
    with cw.client.ClientThread(lambda jobid, result: seen.append(thread.active_jobs)) as thread:
        assert thread.active_jobs == 0
        for _ in range(3):
            thread.submit(jobs.until, tmp_path / "go")
        assert thread.active_jobs == 3
        jobs.mark(tmp_path / "go")
        thread.wait(LIMIT)
        assert thread.active_jobs == 0
    assert seen == [3, 2, 1]


def test_a_thread_that_waits_on_the_condition_wakes_at_the_last_job(cluster):
    with cw.client.ClientThread() as thread:
        with thread.jobs_cond:
            for number in range(20):
                thread.submit(jobs.square, number)
            while thread.active_jobs:
                assert thread.jobs_cond.wait(LIMIT)
        with thread.jobs_cond:
            thread.submit(jobs.square, 1)
            thread.wait(LIMIT)


def test_a_remote_exception_has_the_traceback_as_its_error():
    assert cw.client.RemoteException("Traceback: all of it").error == "Traceback: all of it"
    assert cw.RemoteException("short", "m.E", "long").error == "long"


class WithState(Exception):
    error = "its own"

    def __init__(self, first, second):
        super().__init__(first, second)
        self.more = [second]

    def __str__(self):
        return f"{self.args[0]}!"


class WithoutArguments(LookupError):
    def __init__(self):
        super().__init__()


class Unwilling(ValueError):
    def __init_subclass__(cls):
        raise TypeError("no subclasses")


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("division by zero"),
        KeyError("k"),
        ValueError(),
        OSError(2, "not there", "/a/file"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        ImportError("no such", name="m", path="/p"),
        WithState("a", 2),
        StopIteration(3),
        WithoutArguments(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_wait_raises_is_of_its_own_type_and_a_remote_exception(error):
    error.__cause__ = cw.RemoteTraceback("the whole traceback", {"pid": 3})
    found = remote.with_both_types(error)
    assert isinstance(found, type(error)) and isinstance(found, cw.client.RemoteException)
    assert found.error == ("its own" if isinstance(error, WithState) else "the whole traceback")
    assert (found.args, str(found), vars(found)) == (error.args, str(error), vars(error))
    assert found.__cause__ is error.__cause__ and type(found).__name__ == type(error).__name__
    for name in ("errno", "filename", "start", "path", "more", "value"):
        assert getattr(found, name, None) == getattr(error, name, None)
    copy = pickle.loads(pickle.dumps(found))
    assert type(copy) is type(error) and str(copy) == str(error)


@pytest.mark.parametrize(
    "error", [Unwilling("a"), SystemExit(3), KeyboardInterrupt(), cw.RemoteException("r")]
)
def test_an_error_that_cannot_have_both_types_stays_as_it_is(error):
    assert remote.with_both_types(error) is error
    assert isinstance(remote.as_remote(error), cw.RemoteException)


def test_a_program_catches_the_error_of_a_job_in_either_way(cluster):
    for kind in (cw.client.RemoteException, ZeroDivisionError):
        with pytest.raises(kind, match="^division by zero$") as caught, cw.client.ClientThread() as thread:
            thread.submit("bad", jobs.divide, 1, 0)
            thread.wait(LIMIT)
        assert (
            "return a / b" in caught.value.error
            and "ZeroDivisionError: division by zero" in caught.value.error
        )


def test_a_memoizer_waits_for_single_results_and_sees_errors(master):
    found, error = run(SCRIPTS / "original_memo.py", master).splitlines()
    assert ast.literal_eval(found) == [60 / 29, 60.0, 30.0, 20.0]
    assert error == "ZeroDivisionError: division by zero"


def test_coroutines_for_a_loop_of_the_programs_own_and_the_plainest_thread(master):
    connected, results, of_thread = run(SCRIPTS / "original_coroutines.py", master).splitlines()
    assert connected == f"connected to {master}"
    assert ast.literal_eval(results) == [(0, "ZeroDivisionError: division by zero"), (1, 6.0), (2, 3.0)]
    assert ast.literal_eval(of_thread) == {"a thread's": 1.5}


# --- clusters on this machine -----------------------------------------------------------------


SWEEP = {(width, "narrow"): 2 * width for width in range(1, 4)} | {
    f"wide {width}": 10 * width for width in range(1, 4)
}


@pytest.fixture
def own_home(tmp_path):
    """The environment of programs that share a cluster; nothing of it is left."""
    environment = {"CW_HOME": str(tmp_path / "cw")}
    yield environment
    run("-m", "cw.mp", "stop", **environment)


def test_a_sweep_finds_the_cluster_that_it_has_started_on_localhost(own_home):
    assert ast.literal_eval(run(SCRIPTS / "original_sweep.py", "mp", **own_home)) == SWEEP


@pytest.mark.slow
@pytest.mark.parametrize("script", [SCRIPTS / "original_mp.py", ROOT / "mp.py"])
def test_its_script_starts_a_cluster_for_other_programs_and_ends_it_in_parts(script, own_home):
    run(script, "-n", "2", "start", **own_home)
    for host in ([], ["localhost"]):
        results = ast.literal_eval(run(SCRIPTS / "original_client.py", *host, **own_home))
        assert results == {f"square of {number}": number**2 for number in range(5)}
    status = run("-m", "cw.mp", "status", **own_home)
    assert "slots: 2\n" in status and "master (pid" in status and "worker (pid" in status
    run(script, "stop", "-M", **own_home)
    status = run("-m", "cw.mp", "status", **own_home)
    assert "master (pid" in status and "worker (pid" not in status
    run(script, "start", "-M", "-n", "1", **own_home)
    assert "worker (pid" in run("-m", "cw.mp", "status", **own_home)
    run(script, "stop", **own_home)
    assert "no local cluster" in run("-m", "cw.mp", "status", status=1, **own_home)


def test_a_worker_for_slurm_looks_for_its_cluster_only_and_waits_for_it(tmp_path):
    home = {"CW_HOME": str(tmp_path / "cw")}
    with Program("-m", "cw.worker", "--slurm", **home) as worker:
        worker.wait_for("no master of the cluster 'default' is known")
        with Program("-m", "cw.master", "--port", str(free_port()), **home):
            worker.wait_for_event("worker.joined")
            assert worker.end() == 0
    with Program("-m", "cw.worker", "--slurm", "node7", **home) as worker:
        assert worker.wait() == 2 and "give one of them" in worker.err


def test_arguments_for_docker_are_one_text():
    out = run(ROOT / "slurm.py", "start", "--dry-run", "-d", "image", "--docker-args", "-v /a:/a --rm")
    assert " -v /a:/a --rm image " in out
