"""The cluster that cw makes for a program that knows of none. (A test fails if it leaves a process behind.)"""

import os
import queue
import re
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest
from conftest import wait_until
from programs import (
    LIMIT,
    Program,
    Worker,
    descendants_of,
    events_in,
    is_running,
    lines_of,
    run_script,
    start_script,
)

import cw
from cw import own_cluster
from cw.cpus import usable_cpus
from cw.errors import StartRefused
from cw.launch import batch_signs
from cw.net import address
from cw.observer.model import Snapshot
from cw.top.live import LiveSource

PRELUDE = """
import os, signal, subprocess, sys, threading, time
import cw
from cw.launch import batch_signs
from cw.net import address
batch_signs.DIRECTORIES = ()  # the machine of the tests may have /etc/slurm
address.PORT = 1  # other tests may have a master at the usual one meanwhile

def where(executor):
    return executor._session.exchange.link.where

def make_and_ask(n=0, **settings):
    with cw.ClusterExecutor(**settings) as executor:
        return where(executor)

def square(n):
    return n * n

"""


@pytest.fixture
def laptop(monkeypatch, tmp_path):
    """No sign of a batch system, and no cluster: for the programs that a test starts."""
    for variable in [name for name in os.environ if name.startswith(batch_signs.PREFIXES)]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def run(directory, source, **settings):
    """Run a script as on a laptop. Returns what it prints, and its stderr."""
    return run_script(directory, PRELUDE + textwrap.dedent(source), **settings)


def start(directory, source, **environment):
    return start_script(directory, PRELUDE + textwrap.dedent(source), **environment)


# --- it is made -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first", ["cw.ClusterExecutor()", "cw.ClusterExecutor(local=1)", "cw.map(square, [1])"]
)
def test_its_processes_start_before_the_rest_of_the_client_is_loaded(laptop, first):
    out, _ = run(
        laptop,
        f"""
        from cw.launch import spawning

        execute = spawning._execute
        def note_and_execute(*arguments):
            print("cw.client.session.session" in sys.modules, "cw.net.messages" in sys.modules)
            return execute(*arguments)
        spawning._execute = note_and_execute

        if __name__ == "__main__":
            clients = [{first}, cw.ClusterExecutor(local=3)]
            print("cw.client.session.session" in sys.modules)
        """,
    )
    assert out.splitlines() == ["False False", "True True", "True"]


def test_a_client_with_a_host_starts_none_and_wrong_settings_leave_none(laptop):
    out, err = run(
        laptop,
        """
        from cw import own_cluster

        if __name__ == "__main__":
            for settings in ({"host": "127.0.0.1:1"}, {"local": 2, "host": "h"}, {"local": 0}, {"max_workers": 0},
                             {"local": False, "connect_timeout": 0.01}):
                try:
                    cw.ClusterExecutor(**settings)
                except (cw.ConnectionError, ValueError) as error:
                    print(type(error).__name__, len(own_cluster._clusters))
        """,
    )
    assert out.split() == ["ConnectionError", "0", "ValueError", "0", "ValueError", "0", "ValueError", "0",
                           "ConnectionError", "0"], err  # fmt: skip


def test_a_program_without_a_cluster_computes_and_one_line_says_how(laptop):
    out, err = run(
        laptop,
        """
        if __name__ == "__main__":
            with cw.ClusterExecutor() as executor:
                print(*executor.map(square, range(5)), executor.slots())
            print(*cw.map(square, range(3)))
            with cw.Pool() as pool:
                print(pool.map(square, range(4)))
        """,
    )
    assert out == f"0 1 4 9 16 {usable_cpus()}\n0 1 4\n[0, 1, 4, 9]\n"
    (line,) = err.splitlines()
    assert line.startswith("no cluster is known: this program has started its own on this machine, with ")
    assert "local=False" in line


@pytest.mark.parametrize("how", ["-c", "-i"])
def test_it_needs_no_script(how, laptop):
    source = PRELUDE + "print(list(cw.map(square, range(4))))\n"
    (laptop / "input").write_text(source)
    shell = 'exec "$0" $1 < input' if how != "-c" else 'exec "$0" -c "$(/bin/cat input)"'
    with Program("-c", f"import os; os.execv('/bin/sh', ['sh', '-c', {shell!r}, {sys.executable!r}, {how!r}])",
                 cwd=laptop) as program:  # fmt: skip
        assert program.wait() == 0, program.err
        assert "[0, 1, 4, 9]" in program.out


def test_all_clients_of_a_program_and_its_children_use_the_same(laptop):
    out, err = run(
        laptop,
        """
        def fork():
            read, write = os.pipe()
            if not os.fork():
                os.write(write, make_and_ask().encode())
                os._exit(0)
            os.wait()
            return os.read(read, 100).decode()

        if __name__ == "__main__":
            found = []
            threads = [threading.Thread(target=lambda: found.append(make_and_ask())) for _ in range(4)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            found.append(make_and_ask())
            with cw.ClientThread() as thread:
                found.append(where(thread))
            code = "import cw; print(cw.ClusterExecutor()._session.exchange.link.where)"
            found.append(subprocess.check_output([sys.executable, "-c", code], text=True).strip())
            found.append(fork())
            with cw.ClusterExecutor() as executor:
                found.append(executor.submit(make_and_ask).result())
                found.append(executor.submit(subprocess.check_output, [sys.executable, "-c", code],
                                             text=True).result().strip())
            print(len(found), len(set(found)))
        """,
    )
    assert out == "10 1\n"
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_its_size_is_what_a_client_says(laptop):
    out, err = run(
        laptop,
        """
        from cw import own_cluster
        if __name__ == "__main__":
            for size in (1, 3, 2):
                with cw.ClusterExecutor(max_workers=size) as executor:
                    print(executor._max_workers, executor.slots())
            with cw.Pool(4) as pool:
                print(pool.size)
            with cw.ClusterExecutor(local=5) as executor:
                print(executor.slots(), sorted(executor.map(square, range(5))))
            print([cluster.slots for cluster in own_cluster._clusters])
        """,
    )
    assert out == "1 1\n3 3\n2 2\n4\n5 [0, 1, 4, 9, 16]\n[1, 5]\n"  # the others had no user any more
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_one_for_a_client_of_another_size_is_not_shared(laptop):
    out, _ = run(
        laptop,
        """
        if __name__ == "__main__":
            with cw.ClusterExecutor(max_workers=1) as one, cw.ClusterExecutor() as all_of_it:
                with cw.ClusterExecutor(max_workers=7) as many:
                    print(one.slots(), all_of_it.slots(), many.slots(), make_and_ask() == where(all_of_it))
                    code = "import cw; print(cw.ClusterExecutor()._session.exchange.link.where)"
                    found = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
                    print(found == where(all_of_it), make_and_ask(max_workers=7) == where(many))
                assert [*one.map(square, range(3))] == [0, 1, 4]
        """,
    )
    assert out == f"1 {usable_cpus()} 7 True\nTrue True\n"


def test_a_limit_that_its_size_keeps_anyway_does_not_slow_short_calls_down(laptop):
    out, _ = run(
        laptop,
        """
        if __name__ == "__main__":
            for settings in ({"max_workers": 2}, {"local": 2}, {"local": 2, "max_workers": 1}):
                with cw.ClusterExecutor(**settings) as executor:
                    print(executor._session.exchange.most)
        """,
    )
    assert out == "None\nNone\n1\n"


@pytest.mark.slow
def test_the_number_of_jobs_of_joblib_is_its_size(laptop):
    pytest.importorskip("joblib")
    out, _ = run(
        laptop,
        """
        import joblib, cw.joblib
        from joblib import Parallel, delayed, parallel_config
        if __name__ == "__main__":
            with parallel_config(backend="cw", n_jobs=3):
                print(sum(Parallel()(delayed(square)(n) for n in range(10))))
                print(joblib.parallel.get_active_backend()[0].effective_n_jobs(-1))
        """,
    )
    assert out == f"285\n{max(3, usable_cpus())}\n"


def test_its_process_is_started_again_and_runs_what_is_open(laptop):
    out, err = run(
        laptop,
        """
        from cw import own_cluster
        def wait_for(path):
            while not os.path.exists(path): time.sleep(0.01)
            return os.path.exists("killed")
        if __name__ == "__main__":
            with cw.ClusterExecutor(local=1) as executor:
                (own,) = own_cluster._clusters
                (process,) = own._workers
                again = executor.submit(wait_for, "killed")
                once = executor.options(attempts=1).submit(wait_for, "never")
                later = [executor.options(attempts=1).submit(square, n) for n in range(3)]
                while not executor.submit(pow, 2, 3).done() and not again.running(): time.sleep(0.01)
                process.send_signal(signal.SIGKILL)
                open("killed", "w").close()
                print(again.result())
                open("never", "w").close()
                print(once.exception() is None, [future.result() for future in later])
                print(own.is_alive(), where(executor) == own.master == make_and_ask(local=1))
                print(own._workers != [process])
        """,
        CW_LOG_EVENTS="1",
    )
    assert out.splitlines() == ["True", "True [0, 1, 4]", "True True", "True"]
    assert "killed by SIGKILL" in err


def test_jobs_that_only_waited_when_their_process_died_are_not_charged(laptop):
    out, _ = run(
        laptop,
        """
        from cw import own_cluster
        def wait_for(path):
            open(path + ".began", "w").close()
            while not os.path.exists(path): time.sleep(0.01)
        if __name__ == "__main__":
            with cw.ClusterExecutor(local=1) as executor:
                once = executor.options(attempts=1)
                once.submit(wait_for, "first")
                while not os.path.exists("first.began"): time.sleep(0.01)
                waiting = [once.submit(square, n) for n in range(3)]
                urgent = executor.options(attempts=1, priority=1).submit(wait_for, "never")  # goes before them
                open("first", "w").close()
                while not os.path.exists("never.began"): time.sleep(0.01)
                ((process,),) = (own._workers for own in own_cluster._clusters)
                process.send_signal(signal.SIGKILL)
                print(type(urgent.exception()).__name__, [future.result() for future in waiting])
        """,
    )
    assert out == "WorkerLost [0, 1, 4]\n"


def test_it_starts_where_the_program_has_no_stdin_and_no_stderr(laptop):
    out, _ = run(
        laptop,
        """
        if __name__ == "__main__":
            os.close(0)
            os.close(2)
            print(list(cw.map(square, range(3), local=2)))
            with cw.mp.allocate(1, worker_options=["--max-jobs", "9"]) as cluster:  # two processes
                print(make_and_ask(host=cluster.master) == cluster.master)
        """,
    )
    assert out == "[0, 1, 4]\nTrue\n"


def test_one_that_was_asked_to_end_is_not_used_any_more(laptop):
    out, _ = run(
        laptop,
        """
        from cw import own_cluster
        if __name__ == "__main__":
            with cw.ClusterExecutor(local=1) as executor:
                executor.submit(pow, 2, 3).result()
                (own,) = own_cluster._clusters
                own._workers[0].send_signal(signal.SIGTERM)
                while own._workers[0].is_alive(): time.sleep(0.005)
                print(make_and_ask(local=1) != own.master)
        """,
    )
    assert out == "True\n"


@pytest.mark.slow
def test_a_job_that_kills_its_process_is_given_up_and_the_others_are_done(laptop):
    out, _ = run(
        laptop,
        """
        from cw import own_cluster
        def kill():
            parent = lambda pid: int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
            os.kill(parent(os.getppid()), signal.SIGKILL)
            time.sleep(60)
        if __name__ == "__main__":
            with cw.ClusterExecutor(local=1) as executor:
                executor.submit(square, 1).result()
                culprit = executor.submit(kill)
                others = [executor.submit(square, n) for n in range(2000)]
                error = culprit.exception()
                print(type(error).__name__, len(error.args[1]), error.args[1][0]["how"])
                print(sum(future.result() for future in others))
        """,
    )
    assert out.splitlines() == [
        "WorkerLost 5 the worker was lost: its process died",
        str(sum(n * n for n in range(2000))),
    ]


def test_master_and_worker_are_one_process_and_each_has_its_log():
    cluster = cw.mp.start_own(1)
    try:
        with cw.ClusterExecutor(cluster.master) as executor:
            assert executor.submit(pow, 2, 3).result(LIMIT) == 8
        (process,) = cluster._workers
        status = cw.status(cluster.master)
        assert status.master.pid == process.pid
        assert "cw.master INFO: client " in Path(cluster.logs, "master.log").read_text()
        assert "the worker joined the master at " in Path(cluster.logs, "worker.log").read_text()
    finally:
        cluster.stop()
    assert not process.is_alive()


def test_a_worker_that_is_drained_leaves_and_its_master_stays_until_the_end():
    cluster = cw.mp.start_own(1)
    (process,) = cluster._workers
    try:
        with cw.ClusterExecutor(cluster.master) as executor:
            assert executor.submit(pow, 2, 3).result(LIMIT) == 8
        seen = queue.Queue()
        source = LiveSource(cluster.master, True)
        source.start(seen.put)
        source.drain(
            next(update for update in iter(seen.get, None) if isinstance(update, Snapshot)).workers[0].key
        )
        wait_until(lambda: not cw.status(cluster.master).totals.slots, LIMIT)
        source.close()
        with Worker(cluster.master, "-n", "2"):
            wait_until(lambda: cw.status(cluster.master).totals.slots == 2, LIMIT)
            with cw.ClusterExecutor(cluster.master) as executor:
                assert executor.submit(pow, 2, 3).result(LIMIT) == 8
    finally:
        cluster.stop()
    assert process.exit_status() == 0  # not killed


def switches_of(pid):
    """How often the main thread of a process has gone to sleep so far."""
    return int(
        re.search(r"^voluntary_ctxt_switches:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1]
    )


def test_a_job_that_is_alone_wakes_its_process_twice_and_its_runner_once():
    """With a master in a process of its own, both together five times."""
    trips = 300
    cluster = cw.mp.start_own(1)
    try:
        with cw.ClusterExecutor(cluster.master) as executor:
            for n in range(50):
                executor.submit(pow, n, 2).result()
            (process,) = cluster._workers
            pids = [process.pid, *descendants_of(process.pid)]
            before = sum(map(switches_of, pids))
            for n in range(trips):
                assert executor.submit(pow, n, 2).result(LIMIT) == n * n
            assert sum(map(switches_of, pids)) - before < 4 * trips
    finally:
        cluster.stop()


# --- it is not made ---------------------------------------------------------------------------


def test_where_a_batch_system_shows_the_error_says_at_once_how_to_start_one(laptop):
    source = """
        began = time.monotonic()
        for make in (cw.ClusterExecutor, cw.Pool, lambda: cw.map(square, [1])):
            try:
                make()
            except cw.ConnectionError as error:
                print(error)
        assert time.monotonic() - began < 4
    """
    out, err = run(laptop, source, SLURM_JOB_ID="7")
    assert not err and len(set(out.splitlines())) == 1
    assert "(SLURM_JOB_ID is set): start one with `" in out and "slurm start -n 8`" in out


def test_one_that_is_known_and_does_not_answer_is_an_error(laptop):
    start_id = address.write_address("127.0.0.1", 1)
    source = """
        for settings in ({}, {"port": 2}, {"host": "127.0.0.1"}):
            try:
                cw.ClusterExecutor(connect_timeout=0.1, **settings)
            except cw.ConnectionError as error:
                print("no cw master answers" in str(error))
    """
    assert run(laptop, source) == ("True\n" * 3, "")
    address.remove_address(start_id)


def test_it_can_be_forbidden_and_is_not_for_the_interfaces_of_the_original(laptop):
    source = """
        for make in (lambda: cw.ClusterExecutor(local=False, connect_timeout=0.1),
                     lambda: cw.Pool(local=False, connect_timeout=0.1),
                     lambda: cw.SlurmExecutor(connect_timeout=0.1),
                     lambda: cw.ClientThread(connect_timeout=0.1).start()):
            try:
                make()
            except cw.ConnectionError:
                print("none")
    """
    assert run(laptop, source) == ("none\n" * 4, "")


def test_it_can_be_asked_for_anywhere_and_others_still_find_what_is_known(laptop):
    with cw.mp.allocate(1) as other:
        out, err = run(
            laptop,
            """
            if __name__ == "__main__":
                first = make_and_ask(local=2)
                print(first != os.environ["CW_MASTER"], first == make_and_ask(local=True))
                print(make_and_ask() == os.environ["CW_MASTER"])
                print(subprocess.check_output(
                    [sys.executable, "-c", "from cw.net import address; print(address.find_master()[0].source)"],
                    text=True))
            """,
            CW_MASTER=other.master,
            SLURM_JOB_ID="7",
        )
    assert out == "True True\nTrue\nfrom CW_MASTER\n\n" and not err


@pytest.mark.parametrize(
    ("settings", "kind"),
    [({"local": 0}, ValueError), ({"local": -1}, ValueError), ({"local": "4"}, TypeError), ({"local": 1.5}, TypeError),
     ({"local": 2, "host": "127.0.0.1"}, ValueError), ({"max_workers": 0}, ValueError)],
)  # fmt: skip
def test_wrong_wishes_are_refused_before_anything_starts(settings, kind):
    with pytest.raises(kind):
        cw.ClusterExecutor(**settings)
    assert not own_cluster._clusters


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_a_main_guard_starts_no_more_of_them(method, laptop):
    out, err = run(
        laptop,
        f"""
        import multiprocessing
        print(list(cw.map(square, [2])))
        process = multiprocessing.get_context({method!r}).Process(target=square, args=(1,))
        process.start()
        process.join()
        """,
    )
    assert out == "[4]\n"
    assert "StartRefused: cw.map() (line" in err and 'if __name__ == "__main__":' in err


def test_a_job_may_ask_for_one_but_not_without_end(laptop, monkeypatch):
    monkeypatch.setenv("CW_CLUSTER_DEPTH", "4")
    with pytest.raises(StartRefused, match=r"a cluster of its own \(local=2\) is refused"):
        cw.ClusterExecutor(local=2)


# --- its end ----------------------------------------------------------------------------------

ENDS = {
    "return": ("", 0),
    "os._exit": ("os._exit(3)", 3),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM),
    "SIGINT": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", -signal.SIGINT),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDS)
def test_it_ends_with_the_program_however_that_ends(how, laptop):
    code, status = ENDS[how]
    with start(
        laptop,
        f"""
        import pathlib
        def work(n):
            pathlib.Path(f"runs.{{os.getpid()}}").touch()
            time.sleep({0.2 if how == "return" else 1000})
        if __name__ == "__main__":
            executor = cw.ClusterExecutor()
            executor.submit(work, 1)
            while not list(pathlib.Path(".").glob("runs.*")):
                time.sleep(0.01)
            {code}
        """,
    ) as script:
        assert script.wait() == status, script.err
        pids = [int(path.suffix[1:]) for path in laptop.glob("runs.*")]
        wait_until(lambda: not any(map(is_running, pids)), LIMIT)


@pytest.mark.parametrize("delay", [0.1, 0.5])
def test_an_interrupt_while_it_starts_leaves_nothing(delay, laptop):
    with start(laptop, "print('ready', flush=True)\ncw.ClusterExecutor()\ntime.sleep(60)\n") as script:
        script.wait_for("ready", in_out=True)
        time.sleep(delay)  # wherever it is then
        assert script.end(signal.SIGINT) == -signal.SIGINT
        assert script.err.count("KeyboardInterrupt") == 1 and "Exception ignored" not in script.err, (
            script.err
        )


def test_a_child_that_outlives_the_program_makes_its_own(laptop):
    run(
        laptop,
        """
        if __name__ == "__main__":
            first = make_and_ask()
            program = os.getpid()
            if not os.fork():
                os.setsid()
                while os.getppid() == program:
                    time.sleep(0.01)
                with open("other", "w") as file:
                    print(make_and_ask() != first, file=file)
                os._exit(0)
        """,
    )
    wait_until(lambda: (laptop / "other").exists() and (laptop / "other").read_text() == "True\n", LIMIT)


def test_the_line_is_a_warning_of_the_log(laptop):
    out, err = run(
        laptop,
        """
        from cw import program
        program.set_up_logging()
        print(len(list(cw.map(square, range(3)))))
        """,
    )
    assert out == "3\n" and "own.started" in events_in(err)
    assert re.search(r" WARNING: no cluster is known", lines_of(err, "own.started")[0])
