"""Ctrl-C in a user's script: all that it has begun ends with it, within two seconds."""

import signal
import textwrap
import time
from pathlib import Path

import pytest
from conftest import wait_until
from programs import LIMIT, is_running, start_script

import cw

SECONDS = 5.0
"""More than a busy machine takes for the two that are promised; less than what waits for the jobs."""


@pytest.fixture(scope="module")
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


PRELUDE = """
    import concurrent.futures, os, time
    import cw

    def work(n=0):
        with open(f"runs.{os.getpid()}", "w"):
            pass
        time.sleep(1000)

    def nothing(n=0):
        pass

"""


def start(directory, source, **environment):
    source = textwrap.dedent(PRELUDE) + textwrap.dedent(source)
    return start_script(directory, source, **environment)


def runners(directory):
    return [int(path.suffix[1:]) for path in Path(directory).glob("runs.*")]


def interrupt(script, directory, *, tracebacks=1, count=1):
    """Ctrl-C once it is where it will wait; what the user sees."""
    script.wait_for("ready", in_out=True)
    pids = wait_until(lambda: len(runners(directory)) >= count and runners(directory), LIMIT)
    time.sleep(0.3)
    began = time.monotonic()
    script.send_signal(signal.SIGINT)
    status = script.wait()
    assert time.monotonic() - began < SECONDS, script.err
    assert status == -signal.SIGINT
    assert script.err.count("Traceback") == tracebacks, script.err
    assert script.err.count("KeyboardInterrupt") == 1, script.err
    assert "ignored" not in script.err and "Fatal" not in script.err
    wait_until(lambda: not any(map(is_running, pids)), 2)
    return script.err


WAYS = {
    "result": """
        executor = cw.ClusterExecutor()
        futures = [executor.submit(work, n) for n in range(20)]
        print("ready")
        futures[0].result()
    """,
    "result in a block": """
        with cw.ClusterExecutor() as executor:
            futures = [executor.submit(work, n) for n in range(20)]
            print("ready")
            futures[0].result()
    """,
    "the end of a block": """
        with cw.ClusterExecutor() as executor:
            futures = [executor.submit(work, n) for n in range(20)]
            print("ready")
    """,
    "wait": """
        thread = cw.ClientThread(print)
        thread.start()
        for n in range(20):
            thread.submit(work, n)
        print("ready")
        thread.wait()
    """,
    "wait in a block": """
        with cw.ClientThread(print) as thread:
            for n in range(20):
                thread.submit(work, n)
            print("ready")
            thread.wait()
    """,
    "the end of a thread's block": """
        with cw.ClientThread(print, on_error=lambda jobid, error: None) as thread:
            for n in range(20):
                thread.submit(work, n)
            print("ready")
    """,
    "as_completed": """
        executor = cw.ClusterExecutor()
        futures = [executor.submit(work, n) for n in range(20)]
        print("ready")
        for future in concurrent.futures.as_completed(futures):
            pass
    """,
    "wait for futures": """
        executor = cw.ClusterExecutor()
        futures = [executor.submit(work, n) for n in range(20)]
        print("ready")
        concurrent.futures.wait(futures)
    """,
    "map": """
        executor = cw.ClusterExecutor()
        results = executor.map(work, range(50_000))
        print("ready")
        list(results)
    """,
    "submit without room": """
        executor = cw.ClusterExecutor(max_outstanding=(5, None))
        print("ready")
        while True:
            executor.submit(work)
    """,
    "submit in a loop": """
        executor = cw.ClusterExecutor()
        print("ready")
        while True:
            executor.submit(work)
    """,
    "large arguments on their way": """
        executor = cw.ClusterExecutor()
        futures = [executor.submit(work, bytes(20_000_000)) for _ in range(10)]
        print("ready")
        futures[0].result()
    """,
    "the program's own code": """
        executor = cw.ClusterExecutor()
        futures = [executor.submit(work, n) for n in range(20)]
        print("ready")
        time.sleep(1000)
    """,
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_wherever_the_program_is(cluster, tmp_path, way):
    with start(tmp_path, WAYS[way], CW_MASTER=cluster.master) as script:
        interrupt(script, tmp_path)


def test_in_a_callback_that_does_not_return(cluster, tmp_path):
    source = """
        thread = cw.ClientThread(lambda jobid, result: print("ready") or time.sleep(1000))
        thread.start()
        thread.submit(work)
        thread.submit(nothing)
        thread.wait()
    """
    with start(tmp_path, source, CW_MASTER=cluster.master) as script:
        interrupt(script, tmp_path)


def test_in_the_last_wait_of_a_program_with_its_files_written(cluster, tmp_path):
    source = """
        file = open("file", "w")
        file.write("not flushed by hand")
        thread = cw.ClientThread(print)
        thread.start()
        for n in range(20):
            thread.submit(work, n)
        print("ready")
    """
    with start(tmp_path, source, CW_MASTER=cluster.master) as script:
        said = interrupt(script, tmp_path, tracebacks=0)
        assert "20 jobs" in said and len(said.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "not flushed by hand"


@pytest.mark.parametrize("is_in_block", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_local_cluster_goes_too(tmp_path, is_in_block):
    """(That no process is left is what the fixture of all tests looks at.)"""
    source = """
        with cw.allocate(2) as cluster:
            print(cluster.master, flush=True)
            with cw.ClusterExecutor() as executor:
                futures = [executor.submit(work, n) for n in range(20)]
                print("ready")
                futures[0].result()
    """
    if not is_in_block:
        source = source.replace(
            "with cw.ClusterExecutor() as executor:", "executor = cw.ClusterExecutor()\n            if True:"
        )
    with start(tmp_path, source) as script:
        interrupt(script, tmp_path, count=2)


def test_a_second_time_is_immediate(cluster, tmp_path):
    """The first has to wait, since a callback does not return."""
    source = """
        thread = cw.ClientThread(lambda jobid, result: print("ready") or time.sleep(1000))
        thread.start()
        thread.submit(work)
        thread.submit(nothing)
        thread.wait()
    """
    with start(tmp_path, source, CW_MASTER=cluster.master) as script:
        script.wait_for("ready", in_out=True)
        wait_until(lambda: runners(tmp_path), LIMIT)
        time.sleep(0.2)
        script.send_signal(signal.SIGINT)
        script.wait_for("KeyboardInterrupt")
        began = time.monotonic()
        script.send_signal(signal.SIGINT)
        assert script.wait() != 0
        assert time.monotonic() - began < SECONDS


def test_who_catches_it_may_go_on_with_the_same_client(cluster, tmp_path):
    """As in a notebook."""
    source = """
        import threading, signal
        executor = cw.ClusterExecutor()
        def interrupt():
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)
        for _ in range(4):
            threading.Thread(target=interrupt).start()
            done = []
            try:
                while True:
                    future = executor.submit(nothing)
                    done.append(future)
                    if len(done) % 3 == 0:
                        future.result()
            except KeyboardInterrupt:
                pass
            for future in done:
                assert future.result(20) is None
            assert executor.submit(abs, -3).result(20) == 3
        print("outstanding", executor._session.outstanding())
    """
    with start(tmp_path, source, CW_MASTER=cluster.master) as script:
        assert script.wait() == 0, script.err
        assert script.out == "outstanding 0\n"


def test_sys_exit_still_waits(cluster, tmp_path):
    source = """
        import sys
        thread = cw.ClientThread(lambda jobid, result: print("called"))
        thread.start()
        thread.submit(time.sleep, 0.5)
        sys.exit(3)
    """
    with start(tmp_path, source, CW_MASTER=cluster.master) as script:
        assert script.wait() == 3
        assert script.out == "called\n"
