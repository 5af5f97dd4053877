"""A client's session: its limits, the end of its interpreter, and forks of its process."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Relay, Worker, events_in, run_script, start_script

import cw


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def run(cluster, tmp_path):
    """Run a script as a user would; what it wrote to stdout and to stderr."""
    # Python from 3.12 on warns of every fork() beside threads.
    environment = {"CW_MASTER": cluster.master, "PYTHONWARNINGS": "ignore:This process"}
    return lambda source, **settings: run_script(tmp_path, source, **{**environment, **settings})


@pytest.fixture
def start(cluster, tmp_path):
    return lambda source, **settings: start_script(tmp_path, source, CW_MASTER=cluster.master, **settings)


# --- max_outstanding --------------------------------------------------------------------------


def blocked(function):
    """Call it in a thread of its own; the thread, once it is clear that the call blocks."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    return thread


def test_submit_blocks_at_the_limit_of_jobs(tmp_path):
    with cw.ClusterExecutor(max_outstanding=(10, None)) as executor:
        futures = [executor.submit(jobs.until, tmp_path / "go", n) for n in range(10)]
        thread = blocked(lambda: futures.append(executor.submit(jobs.square, 5)))
        assert len(futures) == 10
        jobs.mark(tmp_path / "go")
        thread.join(LIMIT)
        assert [future.result(LIMIT) for future in futures] == [*range(10), 25]
        for n in range(200):
            executor.submit(jobs.square, n)
            assert executor._session.outstanding() <= 10


def test_submit_blocks_at_the_limit_of_bytes(tmp_path):
    with cw.ClusterExecutor(max_outstanding=(None, 1_000_000)) as executor:
        wait = [executor.submit(jobs.until, tmp_path / "go") for _ in range(2)]
        futures = [executor.submit(len, bytes(300_000)) for _ in range(3)]
        thread = blocked(lambda: futures.append(executor.submit(len, bytes(300_000))))
        jobs.mark(tmp_path / "go")
        thread.join(LIMIT)
        assert [future.result(LIMIT) for future in futures] == [300_000] * 4
        assert [future.result(LIMIT) for future in wait] == [None] * 2
        # One that is larger than the limit goes when it is alone.
        assert executor.submit(len, bytes(3_000_000)).result(LIMIT) == 3_000_000


def test_a_cancel_makes_room(tmp_path):
    with cw.ClusterExecutor(max_outstanding=(5, None)) as executor:
        futures = [executor.submit(jobs.until, tmp_path / "go") for _ in range(5)]
        thread = blocked(lambda: executor.submit(jobs.square, 5))
        assert futures[-1].cancel()
        thread.join(LIMIT)
        assert not thread.is_alive()
        jobs.mark(tmp_path / "go")


def test_submit_in_a_callback_never_blocks():
    results = []

    def callback(jobid, result):
        results.append(result)
        if len(results) == 1:
            for n in range(20):
                thread.submit(jobs.square, n)

    with cw.ClientThread(callback, max_outstanding=(2, None)) as thread:
        thread.submit(jobs.square, 100)
    assert sorted(results) == sorted([10_000, *(n * n for n in range(20))])


def test_a_submit_that_blocks_is_told_when_the_client_stops_or_loses_its_master(tmp_path):
    for how in ("stop", "loss"):
        with Master() as master, Worker(master.address):
            executor = cw.ClusterExecutor(master.address, max_outstanding=(1, None), reconnect_timeout=0.3)
            future = executor.submit(jobs.until, tmp_path / "never")
            caught = []

            def submit(executor=executor, caught=caught):
                try:
                    executor.submit(jobs.square, 1)
                except Exception as failure:
                    caught.append(failure)

            thread = blocked(submit)
            if how == "stop":
                executor._session.close(is_waiting=False)
            else:
                master.end(signal.SIGKILL)
            thread.join(LIMIT)
            assert [type(error) for error in caught] == [
                RuntimeError if how == "stop" else cw.ConnectionError
            ]
            assert future.exception(LIMIT) is not None
            executor.shutdown()


def test_jobs_submitted_before_start_do_not_block():
    results = []
    thread = cw.ClientThread(lambda jobid, result: results.append(result), max_outstanding=(2, None))
    for n in range(10):
        thread.submit(jobs.square, n)
    with thread:
        pass
    assert sorted(results) == [n * n for n in range(10)]


def test_an_endless_map_costs_bounded_memory(run):
    out, _ = run("""
        import itertools, os, cw

        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        def items():
            for n in itertools.count():
                yield n, bytes(10_000)

        def work(item): return item[0], item[1]

        with cw.ClusterExecutor() as executor:
            results = executor.map(work, items(), buffersize=200)
            for n, _ in itertools.islice(results, 500): pass
            before = resident()
            for n, _ in itertools.islice(results, 10_000): pass  # 100 MB, both ways
            print(n, resident() - before < 30_000_000)
            results.close()
    """)
    assert out == "10499 True\n"


# --- the end of the interpreter ---------------------------------------------------------------


def test_the_interpreter_waits_for_what_is_outstanding_and_calls_back(run):
    out, err = run("""
        import sys, time, cw

        def work(n):
            time.sleep(0.2)
            return n * n

        def say(kind, result):
            sys.stdout.write(f"{kind} {result}\\n")  # in one piece: two threads do

        thread = cw.ClientThread(lambda jobid, result: say("callback", result))
        thread.start()
        executor = cw.ClusterExecutor()
        for n in range(4):
            thread.submit(work, n)
            executor.submit(work, n).add_done_callback(lambda done: say("future", done.result()))
        print("end of the main thread")
    """)
    lines = out.splitlines()
    assert lines[0] == "end of the main thread"
    assert sorted(lines[1:]) == sorted(
        [f"{kind} {n * n}" for kind in ("callback", "future") for n in range(4)]
    )
    assert err == ""


def test_callbacks_at_the_end_may_submit_more(run):
    out, _ = run("""
        import cw
        def work(n): return n + 1
        def callback(jobid, result):
            print(result)
            if result < 5:
                thread.submit(work, result)
        thread = cw.ClientThread(callback)
        thread.start()
        thread.submit(work, 0)
    """)
    assert out == "1\n2\n3\n4\n5\n"


@pytest.mark.parametrize("how, status", [("sys.exit(3)", 3), ("raise LookupError('oops')", 1)])
def test_the_interpreter_waits_also_when_it_ends_early(run, how, status):
    out, err = run(f"""
        import sys, time, cw
        def work(n): time.sleep(0.2); return n
        thread = cw.ClientThread(lambda jobid, result: print("callback", result))
        thread.start()
        thread.submit(work, 7)
        {how}
    """, status=status)  # fmt: skip
    assert out == "callback 7\n"
    assert ("LookupError" in err) == (status == 1)


def test_an_error_that_nobody_was_told_is_printed_at_the_end(run):
    _, err = run("""
        import cw
        def work(n): return 1 / n
        thread = cw.ClientThread()
        thread.start()
        thread.submit(work, 1)
        thread.submit(work, 0)
        thread.submit(work, 0)
    """)
    assert err.count("ZeroDivisionError: division by zero") >= 1
    assert "return 1 / n" in err


def test_an_error_that_was_told_is_not_printed_again(run):
    _, err = run("""
        import cw
        def work(n): return 1 / n
        with cw.ClientThread(on_error=lambda jobid, error: None) as thread:
            thread.submit(work, 0)
        thread = cw.ClientThread()
        thread.start()
        thread.submit(work, 0)
        try:
            thread.wait()
        except ZeroDivisionError:
            pass
        thread.stop()
    """)
    assert err == ""


def test_an_error_of_a_client_that_is_stopped_without_wait_is_printed_once(run):
    _, err = run("""
        import time, cw
        def work(n): return 1 / n
        done = []
        thread = cw.ClientThread(done.append)
        thread.start()
        thread.submit(work, 0)
        while thread._session.outstanding(): time.sleep(0.01)
        thread.stop()
    """)
    assert err.count("ZeroDivisionError: division by zero") == 2  # over there and here


def test_ctrl_c_breaks_the_wait_at_the_end(start, tmp_path):
    with start("""
        import time, cw
        def work(n):
            open(f"running {n}", "w").close()
            time.sleep(1000)
        thread = cw.ClientThread(on_error=lambda jobid, error: print(type(error).__name__))
        thread.start()
        for n in range(5):
            thread.submit(work, n)
        print("end", flush=True)
    """) as script:
        script.wait_for("end", in_out=True)
        wait_until(lambda: (tmp_path / "running 0").exists() and (tmp_path / "running 1").exists(), LIMIT)
        began = time.monotonic()
        assert script.end(signal.SIGINT) == -signal.SIGINT
        assert time.monotonic() - began < 5
        assert "KeyboardInterrupt: cancelled 5 jobs " in script.err
        assert "Traceback" not in script.err
        assert script.out.splitlines() == ["end", *["Abandoned"] * 5]


def test_ctrl_c_in_the_block_ends_the_program(start, tmp_path):
    with start("""
        import time, cw
        def work():
            open("running", "w").close()
            time.sleep(1000)
        with cw.ClientThread() as thread:
            thread.submit(work)
            thread.wait()
    """) as script:
        wait_until((tmp_path / "running").exists, LIMIT)
        assert script.end(signal.SIGINT) == -signal.SIGINT
        assert "KeyboardInterrupt" in script.err


def test_ctrl_c_while_a_result_is_waited_for_ends_the_program_with_a_second_one_at_most(start, tmp_path):
    # As with the standard library's executors, the end of the `with` block waits.
    with start("""
        import time, cw
        def work():
            open("running", "w").close()
            time.sleep(1000)
        with cw.ClusterExecutor() as executor:
            executor.submit(work).result()
    """) as script:
        wait_until((tmp_path / "running").exists, LIMIT)
        script.send_signal(signal.SIGINT)
        time.sleep(0.2)
        script.send_signal(signal.SIGINT)
        time.sleep(0.2)
        script.send_signal(signal.SIGINT)
        assert script.wait() != 0


def test_a_thread_that_waits_for_a_future_does_not_keep_an_interrupted_program(start, tmp_path):
    with start("""
        import threading, time, cw
        def work():
            open("running", "w").close()
            time.sleep(1000)
        executor = cw.ClusterExecutor()
        future = executor.submit(work)
        def wait():
            try:
                future.result()
            except BaseException as error:
                print("told", type(error).__name__, flush=True)
        threading.Thread(target=wait).start()
        while not future.running():
            time.sleep(0.01)
        print("end", flush=True)
    """) as script:
        script.wait_for("end", in_out=True)
        script.end(signal.SIGINT)
        assert script.out == "end\ntold Abandoned\n"


def test_a_program_that_loses_its_cluster_ends_and_is_told(run):
    out, _ = run(
        """
        import time, cw
        with cw.mp.allocate(1):
            thread = cw.ClientThread(on_error=lambda jobid, error: print(type(error).__name__), host=None)
            thread.start()
            executor = cw.ClusterExecutor()
            thread.submit(time.sleep, 1000)
            future = executor.submit(time.sleep, 1000)
        print(type(future.exception()).__name__)
    """.replace("import time, cw", "import os, time, cw; del os.environ['CW_MASTER']")
    )
    assert sorted(out.split()) == ["ConnectionError", "ConnectionError"]


# --- forks ------------------------------------------------------------------------------------


def test_a_forked_child_drops_its_copy_in_silence(run):
    out, err = run("""
        import os, sys, cw, time
        def work(n): time.sleep(0.1); return n * n
        results = []
        thread = cw.ClientThread(lambda jobid, result: results.append(result))
        thread.start()
        executor = cw.ClusterExecutor()
        for n in range(10): thread.submit(work, n)
        futures = [executor.submit(work, n) for n in range(10)]
        pid = os.fork()
        if not pid:
            try:
                executor.submit(work, 1)
            except RuntimeError as error:
                print("forked from" in str(error), flush=True)
            try:
                thread.submit(work, 1)
            except RuntimeError as error:
                print("forked from" in str(error), flush=True)
            print(thread.is_alive(), flush=True)
            thread.stop()
            executor.shutdown(wait=True, cancel_futures=True)
            sys.exit(0)  # an orderly end of an interpreter
        print(os.waitpid(pid, 0)[1])
        print([future.result() for future in futures] == [n * n for n in range(10)])
        thread.wait()
        print(sorted(results) == [n * n for n in range(10)])
    """)
    assert out == "True\nTrue\nFalse\n0\nTrue\nTrue\n"
    assert err == ""


def test_a_forked_child_can_be_a_client_of_its_own(run):
    out, err = run("""
        import os, sys, cw
        def work(n): return n * n
        with cw.ClusterExecutor() as executor:
            print(executor.submit(work, 2).result(), flush=True)
            pid = os.fork()
            if not pid:
                with cw.ClusterExecutor() as own:
                    print(own.submit(work, 3).result(), flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
            print(executor.submit(work, 4).result(), flush=True)
    """)
    assert out == "4\n9\n16\n"
    assert err == ""


def test_processes_of_multiprocessing_and_subprocess_do_not_disturb(run):
    out, err = run("""
        import multiprocessing, subprocess, sys, cw
        def work(n): return n * n
        if __name__ == "__main__":
            with cw.ClusterExecutor() as executor:
                first = executor.submit(work, 2)
                with multiprocessing.get_context("fork").Pool(2) as pool:
                    print(pool.map(work, range(4)))
                print(subprocess.run(["echo", "x"], capture_output=True, text=True).stdout.strip())
                print(first.result(), executor.submit(work, 5).result())
    """)
    assert out == "[0, 1, 4, 9]\nx\n4 25\n"
    assert err == ""


def test_a_fork_in_the_middle_of_submits_of_other_threads_harms_neither(run):
    out, err = run("""
        import os, threading, cw
        def work(n): return n
        with cw.ClusterExecutor() as executor:
            futures = []
            def submit():
                for n in range(2000):
                    futures.append(executor.submit(work, n))
            threads = [threading.Thread(target=submit) for _ in range(2)]
            for thread in threads: thread.start()
            statuses = []
            for _ in range(30):
                pid = os.fork()
                if not pid:
                    try:
                        executor.submit(work, 1)
                    except RuntimeError:
                        os._exit(7)
                    os._exit(8)
                statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            for thread in threads: thread.join()
            print(set(statuses), sum(future.result() for future in futures) == 2 * sum(range(2000)))
    """, PYTHONWARNINGS="ignore")  # fmt: skip
    assert out == "{7} True\n"
    assert err == ""


# --- through a network ------------------------------------------------------------------------


def test_all_goes_through_a_relay_as_it_does_on_one_machine():
    with Master() as master, Relay(master.port) as relay, Worker(relay.address, "-n", "2"):
        with cw.ClusterExecutor(relay.address) as executor:
            assert list(executor.map(jobs.square, range(2000))) == [n * n for n in range(2000)]
            for size in (0, 1000, 128 * 1024, 128 * 1024 + 1, 5_000_000):
                data = os.urandom(size)
                assert executor.submit(jobs.echo, data).result(LIMIT) == data
            assert isinstance(executor.submit(jobs.divide, 1, 0).exception(LIMIT), ZeroDivisionError)


def test_a_connection_that_is_cut_ends_every_job_with_an_error(tmp_path):
    with Master() as master, Relay(master.port) as relay:
        executor = cw.ClusterExecutor(relay.address, reconnect_timeout=0.3)
        futures = [executor.submit(jobs.until, tmp_path / "never") for _ in range(5)]
        relay.cut()
        for future in futures:
            assert isinstance(future.exception(LIMIT), cw.ConnectionError)
        executor.shutdown()


def test_the_package_loads_what_is_used():
    code = "import sys, cw; print(*{'bluelet', 'cloudpickle', 'subprocess', 'socket'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_the_master_keeps_a_bounded_number_of_functions_and_is_sent_them_again(cluster, monkeypatch):
    from cw.client.session import object_sender
    from cw.net.objects import ObjectCache

    monkeypatch.setattr(object_sender, "ObjectCache", lambda: ObjectCache(300_000, 20))
    monkeypatch.setattr(object_sender, "BYTES_AT_ONCE", 100_000)
    monkeypatch.setattr(object_sender, "OBJECTS_AT_ONCE", 10)

    def make(number, size):
        data = bytes(size)
        return lambda: (number, len(data))

    functions = [make(number, 10_000) for number in range(60)] + [make(60, 400_000)]
    with cw.ClusterExecutor() as executor:
        for _ in range(3):
            futures = [executor.submit(function) for function in functions]
            assert [future.result(LIMIT)[0] for future in futures] == list(range(61))
        cache = executor._session.calls.object_sender._cache
        assert 1 < len(cache) <= 20 and cache.size <= 300_000 + 401_000
    assert "network.protocol_broken" not in events_in(Path(cluster.logs, "master.log").read_text())


@pytest.mark.slow
def test_a_session_may_use_any_number_of_different_options_and_few_are_kept(cluster, monkeypatch):
    from cw.client.session import object_sender, objects
    from cw.net.objects import ObjectCache

    monkeypatch.setattr(object_sender, "ObjectCache", lambda: ObjectCache(300_000, 20))
    monkeypatch.setattr(object_sender, "OBJECTS_AT_ONCE", 10)
    monkeypatch.setattr(objects, "KEPT_OBJECTS", 30)
    with cw.ClusterExecutor() as executor:
        sender = executor._session.calls.object_sender
        for _ in range(2):
            futures = [
                executor.options(timeout=1000 + n, attempts=n + 1).submit(jobs.square, n) for n in range(200)
            ]
            assert [future.result(LIMIT) for future in futures] == [n * n for n in range(200)]
            assert len(sender._cache) <= 20
    with cw.ClusterExecutor() as executor:
        for n in range(100):  # one after the other
            assert executor.options(timeout=2000 + n).submit(jobs.square, n).result(LIMIT) == n * n
            assert len(executor._session.calls.objects) <= 2 * 30
    assert "breaks the protocol" not in Path(cluster.logs, "master.log").read_text()
