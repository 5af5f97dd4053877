"""Whole programs, as their users run them: on clusters of their own, standing ones, and ones made by hand."""

import concurrent.futures
import functools
import os
import re
import signal
from pathlib import Path

import jobs
import pytest
from conftest import events, wait_until
from programs import LIMIT, Master, Program, Worker, descendants_of, is_running, run_script, start_script

import cw

SCRIPTS = Path(__file__).parent / "scripts"


def resident(pid):
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(name, *arguments, **environment):
    """Run one of the scripts to its end; the lines that it printed."""
    with Program(SCRIPTS / name, *arguments, **environment) as program:
        assert program.wait() == 0, program.err
        assert program.err == ""
        return program.out.splitlines()


@pytest.fixture
def name_server(tmp_path):
    """Makes the name 'master.local' mean a master on this machine, in programs that have it in their path."""
    (tmp_path / "names").mkdir()
    (tmp_path / "names/sitecustomize.py").write_text(
        "import os, socket\n"
        "real = socket.getaddrinfo\n"
        "def getaddrinfo(host, port, *rest, **settings):\n"
        "    if (host, port) == ('master.local', 5494):\n"
        "        host, port = '127.0.0.1', int(os.environ['PORT_OF_MASTER'])\n"
        "    return real(host, port, *rest, **settings)\n"
        "socket.getaddrinfo = getaddrinfo\n"
    )
    return tmp_path / "names"


def test_the_program_of_the_article_calls_back_after_its_main_thread_has_ended(name_server):
    path = os.pathsep.join([str(Path(cw.__file__).parent.parent), str(name_server)])
    with Master() as master, Worker(master.address):
        started, completed = run("article.py", PYTHONPATH=path, PORT_OF_MASTER=str(master.port))
    jobid = int(started.removesuffix(" started"))
    assert completed == f"{jobid} completed"


def test_the_program_of_the_article_is_there_word_for_word():
    assert (
        (SCRIPTS / "article.py")
        .read_text()
        .endswith(
            "\n"
            "def my_callback(jobid, result):\n"
            "    print(jobid, 'completed')\n"
            "thread = cw.client.ClientThread(my_callback, host='master.local')\n"
            "thread.start()\n"
            "jobid = thread.submit(expensive_func, arg)\n"
            "print(jobid, 'started')\n"
        )
    )


def test_a_program_with_ids_of_its_own_runs():
    lines = run("own_ids.py")
    assert sorted(lines, key=lambda line: int(line.split()[-3])) == [
        f"the square for job {n} is {n * n}" for n in range(10)
    ]


def test_a_cluster_made_by_hand_in_any_order_works(tmp_path):
    source = """
        import cw
        def work(n): return n * n
        with cw.ClusterExecutor() as executor:  # found by the address file
            print(sum(executor.map(work, range(100))))
    """
    with Program("-m", "cw.worker", "-n", "2") as early:
        early.wait_for_event("worker.no_master")
        with Master() as master, Worker() as late:
            early.wait_for_event("worker.joined")
            assert run_script(tmp_path, source)[0] == "328350\n"
            assert [late.end(), early.end(), master.end()] == [0, 0, 0]


def test_workers_that_come_and_go_all_the_time_lose_nothing():
    with Master() as master, cw.ClusterExecutor(master.address) as executor:
        futures = [executor.submit(jobs.nap, 0.01, n) for n in range(200)]
        for number in range(4):
            before = sum(future.done() for future in futures)
            with Worker(master.address, "-n", "2") as worker:
                wait_until(lambda more=before + 30: sum(future.done() for future in futures) >= more, LIMIT)
                worker.end((signal.SIGTERM, signal.SIGKILL)[number % 2])
        assert not all(future.done() for future in futures)
        with Worker(master.address):
            concurrent.futures.wait(futures, LIMIT)
        assert [future.result() for future in futures] == list(range(200))


def test_a_program_that_is_edited_and_run_again_on_a_standing_cluster_runs_its_new_code(
    tmp_path, monkeypatch
):
    # Python takes a file that is as long as before, and written in the same second, for the same.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    cluster = cw.mp.start(2)
    try:
        for number in range(3):
            (tmp_path / "model.py").write_text(f"VERSION = {number}\ndef evaluate(n): return VERSION, n\n")
            source = f"""
                import cw, model
                FACTOR = {number}
                def scale(n): return n * FACTOR
                with cw.ClusterExecutor({cluster.master!r}) as executor:
                    print(executor.submit(model.evaluate, 5).result(), executor.submit(scale, 10).result())
            """
            out, _ = run_script(tmp_path, source)
            assert out == f"({number}, 5) {10 * number}\n"
    finally:
        cw.mp.stop()


def test_a_program_that_fails_leaves_nothing_and_says_why(tmp_path):
    source = """
        import cw
        def work(n): return 1 / n
        with cw.mp.allocate(2):
            with cw.ClusterExecutor() as executor:
                executor.map(work, range(-100, 100)).__next__()
                print(list(executor.map(work, [1, 0, 2])))
    """
    with start_script(tmp_path, source) as script:
        assert script.wait() == 1
        assert "ZeroDivisionError: division by zero" in script.err
        assert "return 1 / n" in script.err
        assert re.search(r"job \d+ \(host ", script.err)
        assert (
            script.err.index("RemoteTraceback")
            < script.err.index("the direct cause")
            < script.err.rindex("Zero")
        )


def test_ctrl_c_ends_a_program_and_all_it_started(tmp_path):
    source = """
        import time, cw
        def work(n):
            open(f"running {n}", "w").close()
            time.sleep(1000)
        with cw.mp.allocate(2) as cluster:
            open("worker", "w").write(str(cluster._workers[0].pid))
            with cw.ClientThread() as thread:
                for n in range(10):
                    thread.submit(work, n)
                thread.wait()
    """
    with start_script(tmp_path, source) as script:
        wait_until(lambda: (tmp_path / "running 0").exists() and (tmp_path / "running 1").exists(), LIMIT)
        below = [int((tmp_path / "worker").read_text()), *descendants_of(script.pid)]
        assert len(below) >= 5
        script.send_signal(signal.SIGINT)
        assert script.wait() == -signal.SIGINT
        wait_until(lambda: not any(map(is_running, below)), LIMIT)
    assert len(list(tmp_path.glob("running *"))) == 2


def test_a_long_generator_is_mapped():
    with cw.mp.allocate(2), cw.ClusterExecutor() as executor:
        results = executor.map(jobs.square, (n for n in range(100_000)), chunksize=500, buffersize=5000)
        assert sum(results) == sum(n * n for n in range(100_000))


@pytest.mark.parametrize("jobs_in_all", [5_000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_thousands_of_jobs_call_back(jobs_in_all):
    total, count = 0, 0

    def callback(jobid, result):
        nonlocal total, count
        total += result
        count += 1

    with cw.mp.allocate(2), cw.ClientThread(callback) as thread:
        for n in range(jobs_in_all):
            thread.submit(jobs.square, n)
        thread.wait(60)
    assert (total, count) == (sum(n * n for n in range(jobs_in_all)), jobs_in_all)


def test_the_interactive_interpreter_works(tmp_path):
    # What a function typed at the prompt refers to has no file to be read from.
    lines = [
        "import cw",
        "def work(n): return n + offset",
        "",
        "offset = 5",
        "executor = cw.ClusterExecutor()",
    ]
    lines += [
        "print(executor.submit(work, 1).result())",
        "offset = 7",
        "print(executor.submit(work, 1).result())",
    ]
    (tmp_path / "input").write_text("\n".join([*lines, "executor.shutdown()", ""]))
    with cw.mp.allocate(1) as cluster:
        code = "import code, sys; sys.stdin = open('input'); code.interact(banner='', exitmsg='')"
        with Program("-c", code, cwd=tmp_path, CW_MASTER=cluster.master) as program:
            assert program.wait() == 0, program.err
            assert re.findall(r"\d+", program.out) == ["6", "8"]


def test_a_block_that_nobody_leaves_at_a_prompt_ends_with_it_in_silence(tmp_path):
    (tmp_path / "script.py").write_text("import cw\nblock = cw.mp.allocate(1)\ncluster = block.__enter__()\n")
    with Program("-i", "script.py", cwd=tmp_path) as program:  # its standard input is at its end
        assert program.wait() == 0
        assert program.err.strip() == ">>>"


def test_the_client_needs_no_main_thread(tmp_path):
    source = """
        import threading, cw
        def work(n): return n * n
        def main():
            with cw.mp.allocate(1), cw.ClusterExecutor() as executor:
                print(list(executor.map(work, range(5))))
        thread = threading.Thread(target=main)
        thread.start()
        thread.join()
    """
    assert run_script(tmp_path, source)[0] == "[0, 1, 4, 9, 16]\n"


# --- proxies of multiprocessing's managers --------------------------------------------------------


@pytest.mark.slow
def test_the_proxies_of_a_manager_work_in_jobs_on_its_machine(tmp_path):
    source = """
        import multiprocessing, queue, cw
        def work(inbox, outbox, counts, lock):
            while True:
                try:
                    n = inbox.get_nowait()
                except queue.Empty:
                    return outbox
                with lock:
                    counts["done"] = counts.get("done", 0) + 1
                outbox.put(n * n)
        if __name__ == "__main__":
            with multiprocessing.Manager() as manager, cw.mp.allocate(2), cw.ClusterExecutor() as executor:
                inbox, outbox, counts, lock = manager.Queue(), manager.Queue(), manager.dict(), manager.Lock()
                for n in range(10):
                    inbox.put(n)
                futures = [executor.submit(work, inbox, outbox, counts, lock) for _ in range(2)]
                back = [future.result() for future in futures]  # proxies may come back, too
                print(sorted(back[0].get() for _ in range(10)), counts["done"])
                captured = lambda: counts["done"]
                print(executor.submit(captured).result())
            with cw.mp.allocate(1), cw.ClusterExecutor() as executor:
                try:
                    executor.submit(len, [inbox]).result()
                except cw.ConnectionError as error:
                    print("as long as it runs" in str(error))
    """
    assert run_script(tmp_path, source)[0] == f"{[n * n for n in range(10)]} 10\n10\nTrue\n"


# --- objects and environments -----------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("rounds", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_large_objects_that_are_used_once_and_dropped_leave_no_memory_anywhere(rounds):
    size, warm = 2 * 1024**2, 20
    with Master() as master, Worker(master.address) as worker, cw.ClusterExecutor(master.address) as executor:
        pids = {"client": os.getpid(), "master": master.pid, "worker": worker.pid,
                "runner": executor.submit(jobs.pid).result(LIMIT)}  # fmt: skip
        before = dict.fromkeys(pids, 0.0)
        for number in range(warm + rounds):
            if number == warm:
                before = {role: resident(pid) for role, pid in pids.items()}
            large = bytearray(number.to_bytes(size, "little"))
            assert executor.submit(functools.partial(len, large)).result(LIMIT) == size
            del large
        grown = {role: resident(pid) - before[role] for role, pid in pids.items()}
        assert max(grown.values()) < 60e6, grown
        session = executor._session
        # (The last ones linger: another object may hold the same.)
        wait_until(
            lambda: max(session.calls.objects.size, session.calls.object_sender._cache.size) < 33 * 2**20,
            LIMIT,
        )
        executor.shutdown()


def test_restart_gives_fresh_runners_and_the_old_ones_end_with_their_jobs(cluster, tmp_path, caplog):
    with cw.ClusterExecutor() as executor:
        go = str(tmp_path / "go")
        outstanding = executor.submit(jobs.until, go, "old", str(tmp_path / "pid"))
        wait_until((tmp_path / "pid").exists, LIMIT)
        busy = int((tmp_path / "pid").read_text())
        idle = executor.submit(jobs.pid).result(LIMIT)
        with caplog.at_level("INFO", "cw.client"):
            executor.restart()
        assert events(caplog) == ["client.runners_renewed"]
        # The idle one ends at once, though nothing is submitted; the busy one goes on.
        fresh = executor.submit(jobs.pid).result(LIMIT)
        assert fresh not in (idle, busy)
        wait_until(lambda: not is_running(idle), LIMIT)
        assert is_running(busy)
        Path(go).touch()
        assert outstanding.result(LIMIT) == "old"
        wait_until(lambda: not is_running(busy), LIMIT)
        assert {executor.submit(jobs.pid).result(LIMIT) for _ in range(5)}.isdisjoint({idle, busy})
    with pytest.raises(RuntimeError, match="stopped"):
        executor.restart()


def test_the_environment_is_that_of_the_first_submit_and_of_a_restart(cluster, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with cw.client.ClientThread() as thread:
        seen = {}

        def ask():
            thread.options(callback=lambda jobid, where: seen.update(where=where)).submit(os.getcwd)
            thread.wait(LIMIT)
            return seen["where"]

        thread.restart()  # nothing to renew
        monkeypatch.chdir(first)
        assert ask() == str(first)
        monkeypatch.chdir(second)
        assert ask() == str(first)
        thread.restart()
        assert ask() == str(second)


def test_an_idle_runner_of_an_old_environment_ends_though_nothing_more_is_submitted(cluster):
    with cw.ClusterExecutor() as executor:
        old = executor.submit(jobs.pid).result(LIMIT)
        executor.restart()
        wait_until(lambda: not is_running(old), LIMIT)
