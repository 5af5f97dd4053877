"""What an import must not start, and how deep jobs may start clusters."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from programs import LIMIT, ROOT

import cw
from cw import guard

STARTS = {
    "allocate": "with cw.allocate(1): pass",
    "start": "cw.start(1)",
    "mp.allocate": "with cw.mp.allocate(1): pass",
    "mp.start": "cw.mp.start(1)",
    "slurm.allocate": "with cw.slurm.allocate(1): pass",
    "slurm.start": "cw.slurm.start(1)",
    "slurm.scale": "cw.slurm.scale(1)",
    "executor": "cw.ClusterExecutor()",
    "slurm_executor": "cw.SlurmExecutor()",
    "thread": "cw.ClientThread().start()",
    "block": "with cw.ClientThread(): pass",
    "map": "list(cw.map(abs, [1]))",
}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def executor(cluster):
    with cw.ClusterExecutor() as executor:
        yield executor


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes modules, which the runners of this test's clients find."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda name, source: (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))


def run(code, **environment):
    """What a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:.", **environment},
    )  # fmt: skip
    return done.stdout + done.stderr


def importing(source):
    """In a runner: execute this as the text of a module, and say what became of it."""
    import importlib.util
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "bomb.py")
        with open(path, "w") as file:
            file.write(f"import cw\n{source}\n")
        spec = importlib.util.spec_from_file_location("bomb", path)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("source", STARTS.values(), ids=STARTS)
def test_an_import_in_a_runner_starts_nothing(executor, source):
    began = time.monotonic()
    with pytest.raises(cw.StartRefused) as caught:
        executor.submit(importing, source).result(LIMIT)
    assert '    if __name__ == "__main__":\n        main()' in str(caught.value)
    assert "line 2 of " in str(caught.value)
    assert isinstance(caught.value, RuntimeError) and time.monotonic() - began < LIMIT / 3


def in_thread(source):
    found = []

    def work():
        try:
            importing(source)
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    raise found[0]


def test_an_import_in_a_thread_of_a_job_starts_nothing(executor):
    with pytest.raises(cw.StartRefused):
        executor.submit(in_thread, STARTS["mp.allocate"]).result(LIMIT)


def test_an_import_starts_nothing_that_unpickling_a_call_needs(module):
    """The module is whole at home, where it is no runner that imports it."""
    module(
        "guard_arguments", "import os, cw\nclass Seed: pass\nif cw.guard.is_runner: cw.ClusterExecutor()\n"
    )
    module("guard_function", "import os, cw\ndef f(): pass\nif cw.guard.is_runner: cw.ClusterExecutor()\n")
    import guard_arguments
    import guard_function

    with cw.ClusterExecutor() as executor:
        began = time.monotonic()
        for future in (executor.submit(id, guard_arguments.Seed()), executor.submit(guard_function.f)):
            with pytest.raises(cw.StartRefused):
                future.result(LIMIT)
        assert time.monotonic() - began < LIMIT / 3


def test_a_module_without_its_guard_fails_with_a_sentence_instead_of_starting_clusters_without_end(tmp_path):
    (tmp_path / "sweep.py").write_text(
        "import os, cw\n"
        "with open('log', 'a') as log: print(os.getpid(), file=log)\n"
        "def simulate(seed): return seed * seed\n"
        "with cw.mp.allocate(1), cw.ClusterExecutor() as executor:\n"
        "    print(list(executor.map(simulate, range(4))))\n"
    )
    told = run(f"import os; os.chdir({str(tmp_path)!r}); import sweep")
    assert "StartRefused: cw.mp.allocate() (line 4 of " in told and 'if __name__ == "__main__":' in told
    assert len(set((tmp_path / "log").read_text().split())) == 2  # the program, and one runner


def test_a_job_that_imports_nothing_may_be_a_client_and_start_a_cluster(executor):
    def nested():
        with cw.mp.allocate(1), cw.ClusterExecutor() as inner:
            return inner.submit(guard.depth).result(LIMIT)

    assert guard.depth() == 0
    assert executor.submit(guard.depth).result(LIMIT) == 1
    assert executor.submit(nested).result(LIMIT) == 2


def test_beyond_a_small_depth_a_job_starts_no_cluster(executor, monkeypatch):
    def start(depth):
        os.environ[guard.DEPTH] = str(depth)
        try:
            with cw.mp.allocate(1, workers=False):
                return "started"
        finally:
            os.environ[guard.DEPTH] = "1"

    assert executor.submit(start, guard.MAX_DEPTH).result(LIMIT) == "started"
    with pytest.raises(cw.StartRefused, match="a client in a job finds the one that runs it"):
        executor.submit(start, guard.MAX_DEPTH + 1).result(LIMIT)
    monkeypatch.setenv(guard.DEPTH, "no number")
    assert guard.depth() == 0


@pytest.mark.parametrize("program", ["cw.mp", "cw.slurm"])
def test_the_programs_say_so_in_one_line(program):
    done = subprocess.run(
        [sys.executable, "-m", program, "start", "-n", "1"], capture_output=True, text=True, timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": str(ROOT), guard.DEPTH: "9"},
    )  # fmt: skip
    assert done.returncode == 1 and "9 deep" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_process_that_multiprocessing_is_starting_starts_nothing(tmp_path, method):
    """As multiprocessing itself: its children import the script."""
    script = tmp_path / "script.py"
    script.write_text(
        "import cw, multiprocessing\n"
        "def f(): pass\n"
        "if __name__ == '__main__':\n"
        f"    process = multiprocessing.get_context({method!r}).Process(target=f)\n"
        "    process.start()\n"
        "    process.join()\n"
        "    print('exit', process.exitcode)\n"
        "else:\n"
        "    cw.ClusterExecutor()\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (
        "StartRefused: cw.ClusterExecutor() (line 9 of " in done.stderr and "multiprocessing" in done.stderr
    )
    assert "exit 1" in done.stdout


def test_a_program_may_use_a_cluster_while_it_imports_a_module(cluster, tmp_path):
    (tmp_path / "study.py").write_text("import cw\nvalue = list(cw.map(abs, [-1, -2]))\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import study; print(study.value)"
    assert run(code, CW_MASTER=cluster.master) == "[1, 2]\n"
