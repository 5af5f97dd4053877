"""Where jobs run: the client's directory, path and code; what a job may do, and what it finds."""

import ctypes
import faulthandler
import functools
import gc
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, descendants_of, is_running, run_script, start_script, worker_of

import cw
from cw.cpus import usable_cpus


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def executor(cluster):
    executor = cw.ClusterExecutor()
    yield executor
    executor.shutdown(wait=False, cancel_futures=True)  # what hangs ends with the cluster


@pytest.fixture
def run(cluster, tmp_path):
    """Run a script as a user would, in a directory of its own; what it printed."""

    def run(source, directory=tmp_path, **environment):
        return run_script(directory, source, CW_MASTER=cluster.master, **environment)[0]

    return run


def log_of(cluster):
    return Path(cluster.logs, "worker.log").read_text()


# --- functions of every kind ------------------------------------------------------------------


class Scaler:
    def __init__(self, factor):
        self.factor = factor

    def scale(self, n):
        return self.factor * n

    def __call__(self, n):
        return self.factor * n

    @classmethod
    def name(cls):
        return cls.__name__

    @staticmethod
    def double(n):
        return 2 * n


def _make_closure(factor):
    return lambda n: factor * n


@pytest.mark.parametrize(
    "function",
    [
        lambda n: 10 * n,
        _make_closure(10),
        functools.partial(int.__mul__, 10),
        functools.partial(lambda factor, n: factor * n, 10),
        Scaler(10).scale,
        Scaler(10),
        (10).__mul__,
        functools.partial(Scaler(10).scale),
    ],
    ids=[
        "lambda",
        "closure",
        "partial",
        "partial of a lambda",
        "bound method",
        "callable object",
        "of C",
        "nested",
    ],
)
def test_functions_of_every_kind_run(executor, function):
    assert executor.submit(function, 5).result(LIMIT) == 50
    assert list(executor.map(function, range(5), chunksize=2)) == [0, 10, 20, 30, 40]


def test_class_and_static_methods_classes_and_builtins_run(executor):
    assert executor.submit(Scaler.name).result(LIMIT) == "Scaler"
    assert executor.submit(Scaler.double, 4).result(LIMIT) == 8
    assert executor.submit(Scaler, 4).result(LIMIT).factor == 4
    assert executor.submit(len, "four").result(LIMIT) == 4
    assert executor.submit(str.upper, "x").result(LIMIT) == "X"


def test_recursive_and_mutually_recursive_functions_run(run):
    assert (
        run("""
        import cw

        def is_even(n): return n == 0 or is_odd(n - 1)
        def is_odd(n): return n != 0 and is_even(n - 1)
        factorial = lambda n: 1 if n < 2 else n * factorial(n - 1)

        with cw.ClusterExecutor() as executor:
            print(executor.submit(is_even, 10).result(), executor.submit(factorial, 5).result())
    """)
        == "True 120\n"
    )


def test_classes_of_the_script_are_the_same_back_home(run):
    assert (
        run("""
        import dataclasses, enum
        import cw

        @dataclasses.dataclass
        class Point:
            x: int
            y: int
            def moved(self, by):
                return Point(self.x + by, self.y + by)

        class Colour(enum.Enum):
            RED = 1

        class Base: pass
        class Derived(Base):
            def __init__(self): super().__init__()

        class Oops(ValueError): pass
        def fail(): raise Oops("text")

        with cw.ClusterExecutor() as executor:
            point = executor.submit(Point(1, 2).moved, 10).result()
            print(isinstance(point, Point), point)
            print(isinstance(executor.submit(Derived).result(), Base))
            print(executor.submit(lambda: Colour.RED).result() is Colour.RED)
            print(executor.submit(lambda thing: isinstance(thing, Base), Derived()).result())
            try:
                executor.submit(fail).result()
            except Oops as error:
                print("caught", error)
            print(list(executor.map(Point.moved, [Point(1, 1)] * 3, [1, 2, 3]))[2] == Point(4, 4))
    """)
        == "True Point(x=11, y=12)\nTrue\nTrue\nTrue\ncaught text\nTrue\n"
    )


def test_modules_and_packages_next_to_the_script_are_found(run, tmp_path):
    (tmp_path / "local_module.py").write_text("BASE = 100\ndef shift(n): return n + BASE\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").write_text("from .inner import twice\n")
    (tmp_path / "package/inner.py").write_text("def twice(n): return 2 * n\nclass Kept: pass\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    source = """
        import cw, local_module, package
        from package.inner import Kept

        with cw.ClusterExecutor() as executor:
            print(executor.submit(local_module.shift, 1).result(), executor.submit(package.twice, 4).result())
            print(isinstance(executor.submit(Kept).result(), Kept))
            print(executor.submit(lambda n: local_module.shift(package.twice(n)), 1).result())
    """
    assert run(source) == "101 8\nTrue\n102\n"
    # The directory of the script counts, not only where the user stands.
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        cwd=elsewhere,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "CW_MASTER": cw.net.address.started_here(),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "101 8\nTrue\n102\n", done.stderr


def test_a_script_run_with_m_and_one_from_stdin_work(cluster, tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/__init__.py").write_text("")
    source = (
        "import cw\n"
        "class Own: pass\n"
        "def make(): return Own()\n"
        "if __name__ == '__main__':\n"
        "    with cw.ClusterExecutor() as executor:\n"
        "        print(isinstance(executor.submit(make).result(), Own))\n"
    )
    (tmp_path / "pack/tool.py").write_text(source)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CW_MASTER": cluster.master}
    for arguments, stdin in ((["-m", "pack.tool"], None), (["-"], source), (["-c", source], None)):
        done = subprocess.run(
            [sys.executable, *arguments], input=stdin, cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        assert done.stdout == "True\n", done.stderr


def test_rebinding_what_a_function_uses_is_noticed(run):
    assert (
        run("""
        import cw

        factor = 2
        def helper(n): return n + 1
        def work(n, power=1): return helper(n) * factor ** power

        with cw.ClusterExecutor() as executor:
            print(executor.submit(work, 1).result())
            factor = 10
            print(executor.submit(work, 1).result())
            def helper(n): return n + 100
            print(executor.submit(work, 1).result())
            work.__defaults__ = (3,)
            print(executor.submit(work, 1).result())
            counter = 0
            def closure(): return counter
            def rebind(n):
                global counter
                counter = n
                return executor.submit(closure).result()
            print([rebind(n) for n in range(3)])
            for factor in (1, 2, 3):
                print(executor.submit(lambda: factor).result())
    """)
        == "4\n20\n1010\n101000\n[0, 1, 2]\n1\n2\n3\n"
    )


def test_a_closure_that_is_rebound_is_noticed(executor):
    value = 1

    def look():
        return value

    assert executor.submit(look).result(LIMIT) == 1
    value = 2
    assert executor.submit(look).result(LIMIT) == 2


def test_edited_code_is_the_code_that_runs(run, tmp_path):
    module = tmp_path / "edited.py"
    source = """
        import cw, edited
        def own(): return "script {version}"

        with cw.ClusterExecutor() as executor:
            print(executor.submit(edited.work).result(), "/", executor.submit(own).result())
            print(len(set(executor.map(edited.work, *[[]]))) , set(executor.map(lambda _: edited.work(), range(20))))
    """
    for version in ("one", "two", "three"):
        module.write_text(f"def work(): return 'module {version}'\n")
        # An edit within the same second and of the same length, as an editor's quick save may be.
        os.utime(module, ns=(time.time_ns(), time.time_ns()))
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        out = run(source.replace("{version}", version))
        assert out == f"module {version} / script {version}\n0 {{'module {version}'}}\n"


def test_two_versions_of_a_module_run_side_by_side(cluster, tmp_path):
    scripts = []
    for version in ("one", "two"):
        directory = tmp_path / version
        directory.mkdir()
        (directory / "edited.py").write_text(f"def work(_): return '{version}'\n")
        source = """
            import sys, cw, edited
            with cw.ClusterExecutor() as executor:
                print(executor.submit(edited.work, 0).result(), flush=True)
                sys.stdin.readline()
                print(set(executor.map(edited.work, range(100))))
        """
        scripts.append(start_script(directory, source, CW_MASTER=cluster.master))
    for script, version in zip(scripts, ("one", "two"), strict=True):
        with script:
            assert script.wait() == 0, script.err
            assert script.out == f"{version}\n{{'{version}'}}\n"


# --- the environment --------------------------------------------------------------------------


def test_a_job_works_in_the_clients_directory(run, tmp_path):
    (tmp_path / "input.txt").write_text("some data")
    source = """
        import os, cw
        with cw.ClusterExecutor() as executor:
            print(executor.submit(os.getcwd).result() == os.getcwd())
            print(executor.submit(lambda: open("input.txt").read()).result())
            executor.submit(lambda: open("output.txt", "w").write("result")).result()
    """
    assert run(source) == "True\nsome data\n"
    assert (tmp_path / "output.txt").read_text() == "result"


def test_the_clients_path_comes_first_and_in_its_order(run, tmp_path):
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which.py").write_text(f"NAME = '{name}'\n")
    (tmp_path / "third/only.py").write_text("NAME = 'only'\n")
    out = run(f"""
        import sys
        sys.path[:0] = [{str(tmp_path / "second")!r}, {str(tmp_path / "first")!r}, {str(tmp_path / "third")!r}]
        import cw

        def look():
            import sys, which, only
            return which.NAME, only.NAME, [path for path in sys.path if path in known]

        known = set(sys.path)
        with cw.ClusterExecutor() as executor:
            which, only, path = executor.submit(look).result()
            print(which, only)
            standard = [p for p in sys.path if "python3" in p.rpartition("/")[2] or p.endswith("lib-dynload")]
            strip = lambda paths: [p for p in paths if p not in standard]
            print(strip(path) == strip(dict.fromkeys(sys.path)))
            print(path.index({str(tmp_path / "second")!r}) < path.index(standard[-1]))
    """)
    assert out == "second only\nTrue\nTrue\n"


def test_a_directory_that_is_not_there_is_told_with_the_machine(run, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    out = run(f"""
        import os, shutil, cw
        os.chdir({str(gone)!r})
        with cw.ClusterExecutor() as executor:
            executor._session.calls.objects.environment  # as the first submit takes it
            shutil.rmtree({str(gone)!r})
            for n in range(3):
                try:
                    executor.submit(abs, -1).result()
                except cw.EnvironmentMismatch as error:
                    print(error)
    """)
    assert out.count("\n") == 3
    for line in out.splitlines():
        assert str(gone) in line
        assert os.uname().nodename in line
        assert "No such file or directory" in line


def test_many_jobs_without_their_directory_do_not_pile_up_tracebacks(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    with cw.ClusterExecutor() as executor:
        assert executor._session.calls.objects.environment  # as the first submit takes it
        gone.rmdir()
        futures = [executor.submit(jobs.square, n) for n in range(300)]
        sizes = [len(str(future.exception(LIMIT).__cause__)) for future in futures]
    assert max(sizes) - min(sizes) < 50  # (the jobs' numbers have one to three digits)


def test_a_module_that_is_missing_is_an_import_error_of_the_job(run, tmp_path):
    (tmp_path / "vanishing.py").write_text("def work(): return 1\n")
    out = run("""
        import os, cw, vanishing
        with cw.ClusterExecutor() as executor:
            os.remove("vanishing.py")
            for n in range(2):
                try:
                    executor.submit(vanishing.work).result()
                except ModuleNotFoundError as error:
                    print(error)
                    told = str(error.__cause__)
            print(executor.submit(abs, -3).result())
            assert f"{os.uname().nodename} has no such module" in told
            assert "KeyError" not in told
    """)
    assert out == "No module named 'vanishing'\n" * 2 + "3\n"


def test_a_module_that_fails_to_import_is_the_jobs_error(run, tmp_path):
    (tmp_path / "moody.py").write_text(
        "import os\nif 'HOME_OF_SCRIPT' not in os.environ: raise LookupError('moody')\ndef work(): pass\n"
    )
    out = run("""
        import cw, moody
        with cw.ClusterExecutor() as executor:
            error = executor.submit(moody.work).exception()
            print(type(error).__name__, error, "moody.py" in str(error.__cause__))
            print(executor.submit(abs, -3).result())
    """, HOME_OF_SCRIPT="1")  # fmt: skip
    assert out == "LookupError moody True\n3\n"


@pytest.fixture
def traps(tmp_path):
    """A directory with a file for each module of the standard library: importing one of them ends the process."""
    directory = tmp_path / "traps"
    directory.mkdir()
    for name in sys.stdlib_module_names - {"__future__"}:
        (directory / f"{name}.py").write_text(
            f"print('trapped in {name}', flush=True); import os; os._exit(99)\n"
        )
    return directory


def test_modules_that_shadow_standard_ones_do_not_break_a_runner(run, traps, cluster, tmp_path):
    before = log_of(cluster)
    out = run(f"""
        import sys, os
        import cw.client.executor_parts
        sys.path.insert(0, {str(traps)!r})  # what comes next finds only traps

        class Own:
            def __reduce__(self): raise TypeError("stay")
        class Worse(Exception):
            def __reduce__(self): raise TypeError("stay")
        def fail(error): raise error
        def fail_worse(): raise Worse(Own())
        def fail_from():
            try:
                1 / 0
            except ZeroDivisionError as error:
                raise LookupError("second") from error
        def group(): raise ExceptionGroup("both", [ValueError(1), TypeError(2)])

        with cw.ClusterExecutor() as executor:
            submit = executor.submit
            print(submit(abs, -1).result())
            print(submit(lambda n: n + 1, 1).result())
            print(len(submit(lambda data: data + data, b"x" * 3_000_000).result()))
            print(len(submit(lambda data: [data], bytearray(3_000_000)).result()[0]))
            print(type(submit(fail, ValueError("text")).exception()).__name__)
            print(type(submit(fail, SystemExit(3)).exception()).__name__)
            print(type(submit(fail_worse).exception()).__name__)
            print(type(submit(fail_from).exception()).__name__)
            print(type(submit(Own).exception()).__name__)
            print(type(submit(int, "x").exception()).__name__)
            if sys.version_info >= (3, 11):
                print(type(submit(group).exception()).__name__)
            else:
                print("ExceptionGroup")
            print(type(submit(eval, "1 +").exception()).__name__)
            print(list(executor.map(abs, [-1, -2, -3], chunksize=2)))
    """)
    assert out.splitlines() == [
        "1", "2", "6000000", "3000000", "ValueError", "SystemExit", "RemoteException", "LookupError", "NotPicklable",
        "ValueError", "ExceptionGroup", "SyntaxError", "[1, 2, 3]",
    ]  # fmt: skip
    with cw.ClusterExecutor() as executor:  # and the worker and its forkserver live
        assert executor.submit(jobs.square, 2).result(LIMIT) == 4
    wait_until(lambda: log_of(cluster).count("trapped") == before.count("trapped"))
    assert "trapped" not in log_of(cluster)


def test_a_shadowed_module_is_what_the_users_own_code_gets(run, tmp_path):
    (tmp_path / "fractions.py").write_text("NAME = 'mine'\n")
    (tmp_path / "signal.py").write_text("NAME = 'my signal'\n")
    out = run("""
        import sys
        here = sys.path.pop(0)
        import cw.client.executor_parts, signal  # cw loads the standard ones here
        sys.path.insert(0, here)
        def look():
            import fractions
            return fractions.NAME
        with cw.ClusterExecutor() as executor:
            print(executor.submit(look).result())
    """)
    assert out == "mine\n"


# --- what a job finds -------------------------------------------------------------------------


def look_around():
    import resource

    found = {}
    for fd in range(3):
        found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    high = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]
    return {
        "fds": found,
        "inheritable": [fd for fd in high if _is_open(fd) and os.get_inheritable(fd)],
        "main thread": threading.current_thread() is threading.main_thread(),
        "group": os.getpgid(0) == os.getpid(),
        "stdin": sys.stdin.read() if sys.stdin else "",
        "argv": sys.argv,
        "main": sys.modules["__main__"].__dict__.get("__file__"),
        "threads": {name: os.environ.get(name) for name in THREADS},
        "SIGTERM": signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, signal.SIG_DFL, None),
        "SIGINT": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "SIGCHLD": signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL,
        "wakeup fd": signal.set_wakeup_fd(-1),
        "limit": resource.getrlimit(resource.RLIMIT_CORE) is not None,
        "cwd": os.getcwd(),
        "daemon": __import__("multiprocessing").current_process().daemon,
    }


def _is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS", "BLIS_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "LOKY_MAX_CPU_COUNT",
    "PYTHON_CPU_COUNT",
)  # fmt: skip


def test_a_job_finds_an_orderly_process(executor):
    found = executor.submit(look_around).result(LIMIT)
    assert found["fds"].pop(0) == "/dev/null"
    assert sorted(found["fds"]) == [1, 2], "what the worker reads"
    assert all(name.startswith("pipe:") for name in found["fds"].values())
    assert found["stdin"] == ""
    assert found["inheritable"] == []
    assert found["main thread"]
    assert found["group"]
    assert found["argv"] == [""]
    assert found["main"] == getattr(sys.modules["__main__"], "__file__", None)
    assert (found["SIGTERM"], found["SIGINT"], found["SIGCHLD"]) == (True, True, True)
    assert found["wakeup fd"] == -1
    assert found["cwd"] == os.getcwd()
    assert not found["daemon"]


def test_numerical_libraries_are_told_how_many_threads_a_slot_has(executor):
    each = str(max(1, usable_cpus() // 2))
    found = executor.submit(look_around).result(LIMIT)["threads"]
    assert found == {name: os.environ.get(name, each) for name in THREADS}


def test_what_a_job_prints_is_in_the_log_at_once(executor, cluster, tmp_path):
    future = executor.options(output="log").submit(_print_and_wait, tmp_path / "go")
    wait_until(lambda: "a line of the job" in log_of(cluster), LIMIT, lambda: log_of(cluster))
    wait_until(lambda: "to stderr" in log_of(cluster), LIMIT)
    jobs.mark(tmp_path / "go")
    future.result(LIMIT)


def _print_and_wait(path):
    print("a line of the job")
    print("to stderr", file=sys.stderr)
    jobs.until(path)


def test_a_job_may_close_and_redirect_its_standard_files(cluster):
    with cw.ClusterExecutor(cluster.master) as executor:  # its runners, as it leaves them, are nobody else's
        assert executor.submit(_close_files).result(LIMIT) == "closed"
        for _ in range(5):
            assert executor.submit(jobs.square, 2).result(LIMIT) == 4


def _close_files():
    for fd in range(3):
        os.close(fd)
    os.closerange(3, 20)  # as a program that makes itself a daemon does
    return "closed"


def test_a_job_may_handle_signals_run_asyncio_and_start_threads_and_children(executor):
    done = executor.submit(_do_it_all).result(LIMIT)
    assert done == ["alarm", "async", "thread", "child", "fork 7", "process 9", "pool 30"]


def _do_it_all():
    import asyncio
    import multiprocessing

    done = []
    signal.signal(signal.SIGALRM, lambda *_: done.append("alarm"))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while not done:
        time.sleep(0.001)

    async def nap():
        await asyncio.sleep(0)
        done.append("async")

    asyncio.run(nap())
    thread = threading.Thread(target=done.append, args=("thread",))
    thread.start()
    thread.join()
    done.append(subprocess.run(["echo", "child"], capture_output=True, text=True, check=True).stdout.strip())
    pid = os.fork()
    if not pid:
        os._exit(7)
    done.append(f"fork {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
    context = multiprocessing.get_context("fork")
    process = context.Process(target=sys.exit, args=(9,))
    process.start()
    process.join()
    done.append(f"process {process.exitcode}")
    with context.Pool(2) as pool:
        done.append(f"pool {sum(pool.map(jobs.square, range(5)))}")
    return done


def test_a_runner_survives_sigterm_and_the_children_of_a_job_do_not(executor):
    assert executor.submit(_send_sigterms).result(LIMIT) == [-signal.SIGTERM] * 3


def _send_sigterms():
    import multiprocessing

    os.kill(os.getpid(), signal.SIGTERM)
    started = subprocess.Popen(["sleep", "1000"])
    started.terminate()
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    process.start()
    process.terminate()
    process.join()
    pid = os.fork()
    if not pid:
        time.sleep(1000)
    os.kill(pid, signal.SIGTERM)
    return [started.wait(), process.exitcode, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]


def test_a_forked_child_that_returns_from_the_job_gives_no_second_result(executor):
    for status in (0, 3):
        parent, child = executor.submit(_fork_and_return, status).result(LIMIT)
        assert parent != child[0]
        assert child[1] == status
    assert executor.submit(jobs.square, 2).result(LIMIT) == 4


def _fork_and_return(status):
    pid = os.fork()
    if not pid:
        sys.exit(status)  # in a program of its own this would end the process
    return os.getpid(), (pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def test_a_job_may_be_a_client_itself_and_finds_the_cluster_on_which_it_runs(executor):
    assert executor.submit(_use_the_cluster).result(LIMIT) == [0, 1, 4, 9]


def _use_the_cluster():
    import cw

    with cw.ClusterExecutor() as executor:
        return list(executor.map(jobs.square, range(4)))


def test_global_state_lasts_within_a_session_and_does_not_leak_into_the_next():
    for _ in range(2):
        with cw.mp.allocate(1), cw.ClusterExecutor() as executor:
            assert executor.submit(jobs.get_global).result(LIMIT) is None
            executor.submit(jobs.set_global, 5).result(LIMIT)
            assert executor.submit(jobs.get_global).result(LIMIT) == 5
            with cw.ClusterExecutor() as another:
                assert another.submit(jobs.get_global).result(LIMIT) is None
            assert executor.submit(jobs.get_global).result(LIMIT) == 5


def test_a_job_that_changes_directory_and_path_changes_it_for_its_session_only(cluster):
    with cw.ClusterExecutor() as executor:
        executor.submit(os.chdir, "/").result(LIMIT)
        executor.submit(_clear_path).result(LIMIT)
    with cw.ClusterExecutor() as executor:
        assert set(executor.map(_where, range(10))) == {os.getcwd()}


def _clear_path():
    sys.path.clear()


def _where(_):
    import fractions  # noqa: F401

    return os.getcwd()


# --- what a job leaves behind -------------------------------------------------------------------


def leave_timer(how, handler=True):
    """Set a timer that is not over when this job is; the runner's pid."""
    if handler:
        for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF):
            signal.signal(number, lambda number, frame: jobs.fail(TimeoutError("somebody else's")))
    if how == "alarm":
        signal.alarm(1)
    elif how == "C":
        time.sleep(0.002)
        ctypes.CDLL(None).alarm(1)
    elif how == "error":
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        raise ValueError("and so it is not cleared")
    elif how == "faulthandler":
        faulthandler.dump_traceback_later(0.2, exit=True)
    else:
        signal.setitimer(getattr(signal, how), 0.2, 0.2)
    return os.getpid()


def use_time(seconds):
    """Of the processor, too."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return os.getpid()


@pytest.mark.parametrize(
    ("how", "handler"),
    [
        ("alarm", False),
        ("error", True),
        ("faulthandler", False),
        ("ITIMER_REAL", True),
        pytest.param("C", True, marks=pytest.mark.slow),
        pytest.param("ITIMER_VIRTUAL", False, marks=pytest.mark.slow),
        pytest.param("ITIMER_PROF", True, marks=pytest.mark.slow),
    ],
)
def test_timers_that_a_job_leaves_do_not_fire_in_the_next(one_slot, how, handler):
    first = one_slot.submit(leave_timer, how, handler)
    if how == "error":
        assert isinstance(first.exception(LIMIT), ValueError)
    assert one_slot.submit(use_time, 1.3 if how in ("alarm", "C") else 0.5).result(LIMIT) > 0
    if how != "error":
        assert one_slot.submit(jobs.pid).result(LIMIT) == first.result()  # none has died


def leave_timer_or_use_time(item):
    if item == 0:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
    return use_time(0.3) if item else item


def test_timers_that_a_call_leaves_do_not_fire_in_the_next_of_its_chunk(one_slot):
    local = lambda item: leave_timer_or_use_time(item)  # noqa: E731
    for call, options in (leave_timer_or_use_time, {}), (local, {}), (local, {"return_exceptions": True}):
        assert list(one_slot.map(call, range(2), chunksize=2, **options))[0] == 0


def test_a_timer_fires_in_its_own_job(one_slot):
    def wait():
        signal.signal(signal.SIGALRM, lambda number, frame: jobs.fail(TimeoutError("my own")))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        time.sleep(LIMIT)

    with pytest.raises(TimeoutError, match="my own"):
        one_slot.submit(wait).result(LIMIT)
    assert one_slot.submit(signal.alarm, 5).result(LIMIT) == 0  # the function itself travels by name


@pytest.fixture(scope="module")
def one_slot():
    with cw.mp.allocate(1), cw.ClusterExecutor() as executor:
        yield executor


def leave_thread(path, seconds, kind="thread"):
    def work():
        time.sleep(seconds)
        jobs.mark(path)

    if kind == "pool":
        POOLS.append(ThreadPoolExecutor(1))
        POOLS[-1].submit(int).result()
    else:
        threading.Thread(target=work, daemon=kind == "daemon").start()


POOLS = []


def test_a_thread_that_a_job_leaves_is_waited_for_and_that_is_said_once(tmp_path, caplog):
    with cw.mp.allocate(1), cw.ClusterExecutor() as executor:
        for n in range(3):
            executor.submit(leave_thread, tmp_path / str(n), 1).result(LIMIT)
        wait_until(lambda: "leave_thread() has returned while a thread" in caplog.text, LIMIT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
    assert caplog.text.count("leave_thread.<locals>.work") == 1


@pytest.mark.parametrize("kind", ["daemon", "pool"])
def test_threads_that_end_with_their_process_are_not_told_of(tmp_path, caplog, kind):
    with cw.mp.allocate(1), cw.ClusterExecutor() as executor:
        executor.submit(leave_thread, tmp_path / "it", 1000, kind).result(LIMIT)
        assert executor.submit(jobs.nap, 0.05, 1).result(LIMIT) == 1
        began = time.monotonic()
    assert time.monotonic() - began < 4.5  # the program would wait 5 s for them
    assert "a thread" not in caplog.text


def fail_with_much(how):
    """An exception whose traceback leads to 20 MB, and in a circle to itself."""
    much = bytearray(b"1") * 20_000_000  # noqa: F841
    kept = None
    if how == "no circle":
        try:
            raise ValueError("the only one")
        except ValueError as error:
            return error
    try:
        try:
            raise KeyError("the first")
        except KeyError as error:
            kept = error  # noqa: F841
            raise ValueError("the second") from error
    except ValueError as error:
        if how == "raise":
            raise
        return error


def resident():
    gc.disable()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("how", "chunksize"), [("raise", 1), ("raise", 2), ("return", 1), ("no circle", 1), ("no circle", 2)]
)
def test_a_result_that_was_an_exception_leaves_nothing_in_the_runner(one_slot, how, chunksize):
    before = one_slot.submit(resident).result(LIMIT)
    for _ in range(5):
        try:
            for found in one_slot.map(fail_with_much, [how] * 2, chunksize=chunksize):
                assert isinstance(found, ValueError) and how != "raise"
        except ValueError as error:
            assert how == "raise" and isinstance(error.__cause__, Exception)
            assert "in fail_with_much" in str(error.__cause__) and "the first" in str(error.__cause__)
    assert one_slot.submit(resident).result(LIMIT) - before < 60_000_000


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_clients_recursion_limit_holds_in_its_runners(run, when):
    out = run(f"""
        import sys, cw
        def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
        if __name__ == "__main__":
            if {when == "before"}: sys.setrecursionlimit(5000)
            with cw.ClusterExecutor() as executor:
                if {when == "after"}: sys.setrecursionlimit(5000)
                print(executor.submit(sys.getrecursionlimit).result(), executor.submit(depth, 3000).result())
        """)
    assert out == "5000 3000\n"


def test_connections_are_refused_as_results_by_name(executor):
    with pytest.raises(
        cw.NotPicklable, match=r"the job's result: multiprocessing's Connection .* result\[0\]"
    ):
        executor.submit(multiprocessing.Pipe).result(LIMIT)


@pytest.mark.slow
def test_background_threads_of_a_job_do_not_keep_its_runner_from_ending(cluster):
    worker = worker_of(cluster)
    with cw.ClusterExecutor(cluster.master) as executor:
        pid = executor.submit(_start_thread).result(LIMIT)
        assert pid in descendants_of(worker)
    wait_until(lambda: not is_running(pid), LIMIT)


def _start_thread():
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return os.getpid()


def test_at_its_end_a_runner_runs_exit_handlers(tmp_path):
    with cw.ClusterExecutor() as executor:
        executor.submit(_register_exit, tmp_path / "ended").result(LIMIT)
    wait_until((tmp_path / "ended").exists, LIMIT)


def _register_exit(path):
    import atexit

    atexit.register(jobs.mark, path)


# --- large payloads ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, 100, 16 * 1024, 128 * 1024 - 100, 128 * 1024, 128 * 1024 + 1, 2**20, 10**7]
)
def test_bytes_of_any_size_go_there_and_back(executor, size):
    data = os.urandom(size)
    assert executor.submit(jobs.echo, data).result(LIMIT) == data


def test_large_and_small_jobs_mix(executor):
    sizes = [10, 300_000, 20, 5_000_000, 0, 200_000, 7, 131_072] * 5
    datas = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
    futures = [executor.submit(jobs.echo, data) for data in datas]
    assert [future.result(LIMIT) for future in futures] == datas
    assert [len(data) for data in executor.map(jobs.echo, datas, chunksize=7)] == sizes


def test_arrays_come_equal_and_writable(executor):
    numpy = pytest.importorskip("numpy")
    for array in (
        numpy.arange(1_250_000.0),
        numpy.ones((3, 500, 500), "f4", "F"),
        numpy.zeros(0),
        numpy.arange(5),
    ):
        back = executor.submit(_double_in_place, array).result(LIMIT)
        assert back.dtype == array.dtype
        assert numpy.array_equal(back, 2 * array)
        assert back.flags.writeable
        back += 1
    many = [numpy.full(100_000, n) for n in range(5)]
    assert executor.submit(_sum_all, many, extra={"k": many[0]}).result(LIMIT) == 1_000_000


def _double_in_place(array):
    array *= 2
    return array


def _sum_all(arrays, extra):
    return int(sum(array.sum() for array in arrays) + extra["k"].sum())


def test_a_read_only_array_stays_read_only(executor):
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(100_000)
    array.flags.writeable = False
    assert not executor.submit(jobs.echo, array).result(LIMIT).flags.writeable


def test_a_function_with_much_in_its_closure_travels_once(executor):
    data = os.urandom(10_000_000)
    futures = [executor.submit(lambda n: n + len(data), n) for n in range(3)]
    assert [future.result(LIMIT) for future in futures] == [10_000_000 + n for n in range(3)]

    def look(n):
        return n + len(data)

    assert executor.submit(look, 0).result(LIMIT) == 10_000_000
    began = time.monotonic()
    assert sum(executor.map(look, range(500))) == 500 * 10_000_000 + sum(range(500))
    assert time.monotonic() - began < 10  # each time 10 MB would be 5 GB


def test_large_arguments_of_a_function_that_cannot_be_loaded_are_not_given_to_the_next(run, tmp_path):
    (tmp_path / "vanishing.py").write_text("def work(data): return 1\n")
    out = run("""
        import os, cw, vanishing
        def size(data): return len(data)
        with cw.ClusterExecutor() as executor:
            os.remove("vanishing.py")
            bad = [executor.submit(vanishing.work, bytes(200_000 + n)) for n in range(4)]
            good = [executor.submit(size, bytes(300_000 + n)) for n in range(4)]
            print({type(future.exception()).__name__ for future in bad}, [future.result() for future in good])
    """)
    assert out == "{'ModuleNotFoundError'} [300000, 300001, 300002, 300003]\n"


def test_large_arguments_of_a_job_that_was_taken_back_are_not_given_to_the_next(executor, tmp_path):
    for _ in range(3):
        wait = [executor.submit(jobs.until, tmp_path / "go") for _ in range(2)]
        futures = [executor.submit(len, bytes(200_000 + n)) for n in range(100)]
        cancelled = {n for n in range(0, 100, 3) if futures[n].cancel()}
        jobs.mark(tmp_path / "go")
        for n, future in enumerate(futures):
            assert n in cancelled or future.result(LIMIT) == 200_000 + n
        assert [future.result(LIMIT) for future in wait] == [None, None]
        (tmp_path / "go").unlink()


def test_memory_of_large_payloads_is_given_back(executor, cluster):
    list(executor.map(jobs.square, range(4)))
    pids = [worker_of(cluster), *descendants_of(worker_of(cluster)), os.getpid()]

    def shared():
        return sum(_memory_files(pid) for pid in pids if is_running(pid))

    before = shared()  # states of functions that other tests have had
    list(executor.map(len, [bytes(10_000_000)] * 4))
    executor.submit(jobs.echo, bytes(5_000_000)).result(LIMIT)
    for n in range(20):
        assert len(executor.submit(jobs.echo, bytes(5_000_000 + n)).result(LIMIT)) == 5_000_000 + n
    executor.submit(jobs.square, 1).result(LIMIT)
    wait_until(lambda: shared() <= before + 9, LIMIT, shared)


def _memory_files(pid):
    """Memory files that a process maps or holds open."""
    try:
        mapped = Path(f"/proc/{pid}/maps").read_text().count("memfd:")
        return mapped + sum(
            "memfd:" in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")
        )
    except OSError:
        return 0


def test_a_job_with_many_descriptors_open_still_gets_large_payloads(executor):
    assert executor.submit(_open_many).result(LIMIT) > 500
    assert executor.submit(len, bytes(1_000_000)).result(LIMIT) == 1_000_000


def _open_many():
    _open_many.sockets = [socket.socketpair() for _ in range(300)]
    return 2 * len(_open_many.sockets)
