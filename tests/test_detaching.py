"""How a program that detaches ends, and one that does not: each cell of the table in docs/detached.md."""

import contextlib
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import wait_until
from programs import LIMIT, ROOT, Master, Program, Worker, descendants_of, is_running, run_script
from terminal import Terminal

import cw
from cw.launch import launcher
from cw.net import address
from cw.runs import detaching, lease, starting
from cw.runs.folder import CANCELLED, ENDED, STEWARD, RunFolder

WITHOUT, WITH = "without `detach`", "with `detach`"

CALLS = 6

SCRIPT_TEXT = f"""
import os, sys, time
import cw

def work(n):
    open(f"began.{{n}}.{{time.time_ns()}}.{{os.getpid()}}", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.02)
    print("worked at", n)
    return n * n

def items():
    for n in range({CALLS}):
        if n == {CALLS} - 1:
            print("slow", flush=True)
            time.sleep(100)
        yield n

if __name__ == "__main__":
    settings = {{}} if sys.argv[1] == "stay" else {{"detach": "sweep"}}
    if "LOCAL" in os.environ:
        settings["local"] = int(os.environ["LOCAL"])
    with cw.ClusterExecutor(store="sweep.cw", **settings) as executor:
        if sys.argv[1] == "slow":
            results = executor.map(work, items(), buffersize=3)
        else:
            futures = [executor.submit(work, n) for n in range({CALLS})]
        print("ready", flush=True)
        while not os.path.exists("leave"):
            time.sleep(0.02)
    print([future.result() for future in futures])
"""


class Run:
    """A directory, and the script in it, in a terminal. `master`: address of the script's; "": it makes a cluster;
    None: it finds one."""

    def __init__(self, directory, master):
        self.directory, self.master = directory, master
        self.folder = RunFolder(directory / "sweep.cw" / "runs" / "sweep")
        (directory / "script.py").write_text(SCRIPT_TEXT)

    def start(self, column, how="detach"):
        cluster = {"CW_MASTER": self.master} if self.master else {} if self.master is None else {"LOCAL": "2"}
        return Terminal("script.py", how if column == WITH else "stay", cwd=self.directory, **cluster)

    def hand_over(self):
        """Start the script, and let it leave while two calls run; then its steward has the run."""
        with self.start(WITH) as script:
            self.wait_until_it_runs(script)
            self.touch("leave")
            assert script.wait() == 1, script.text
        assert self.phase() == STEWARD

    def wait_until_it_runs(self, script):
        script.wait_for("ready")
        wait_until(lambda: len(self.began()) >= 2, LIMIT, lambda: script.text)

    def began(self):
        return [int(path.name.split(".")[1]) for path in self.directory.glob("began.*")]

    def pids(self):
        return [int(path.name.split(".")[3]) for path in self.directory.glob("began.*")]

    def touch(self, name):
        (self.directory / name).touch()

    def results(self):
        if not (self.directory / "sweep.cw").exists():
            return []
        with contextlib.suppress(cw.StoreError):
            return sorted(record.value for record in cw.results(self.directory / "sweep.cw"))
        return []

    def phase(self):
        return self.folder.state().phase

    # --- what a cell says ---

    def goes_on(self, runs_twice=()):
        """The calls go on without the script: each runs once, and all results come to the store."""
        self.touch("go")
        wait_until(lambda: self.phase() == ENDED, LIMIT, lambda: (self.folder.state(), self.log()))
        assert self.results() == [n * n for n in range(CALLS)]
        assert Counter(self.began()) == Counter([*range(CALLS), *runs_twice])

    def is_cancelled(self):
        """What ran was stopped, nothing else runs, nothing is stored."""
        wait_until(lambda: not any(map(is_running, self.pids())), LIMIT)
        assert len(self.began()) == 2 and self.results() == []

    def log(self):
        with contextlib.suppress(OSError):
            return Path(self.folder.place(starting.STEWARD_LOG)).read_text()


@pytest.fixture(scope="module")
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def run(tmp_path, cluster):
    yield Run(tmp_path, cluster.master)
    (tmp_path / "go").touch()


# --- the cells --------------------------------------------------------------------------------


def block_ends(run, column):
    with run.start(column) as script:
        run.wait_until_it_runs(script)
        run.touch("leave")
        if column == WITHOUT:
            time.sleep(0.3)
            assert script.process.poll() is None  # it waits
            run.touch("go")
            assert script.wait() == 0
            assert f"{[n * n for n in range(CALLS)]}" in script.text and run.results()
            return
        assert script.wait() == 1  # it asks for a result, which is not there
        lines = [line for line in script.text.splitlines() if "worked" not in line]
        assert lines[0] == "ready" and len(lines) == 2  # no traceback
        assert re.fullmatch(
            r"sweep: what is outstanding goes on without this program; come back by `.* runs status sweep`, "
            r"cw\.attach\('sweep'\), or this script again",
            lines[1],
        )
    run.goes_on()


def ctrl_c_once(run, column):
    with run.start(column) as script:
        run.wait_until_it_runs(script)
        script.type("\x03")
        if column == WITHOUT:
            assert script.wait() == -signal.SIGINT
            run.is_cancelled()
            return
        script.wait_for("detach? Ctrl-C again within 10 s: 6 calls go on without this program")
        run.touch("go")
        run.touch("leave")
        wait_until(lambda: len(run.results()) == CALLS or script.process.poll() is not None, LIMIT)
        assert script.wait() in (0, 1)  # all had ended, or it has detached: nothing was interrupted
        assert "KeyboardInterrupt" not in script.text
    run.goes_on()


def ctrl_c_twice(run, column):
    with run.start(column) as script:
        run.wait_until_it_runs(script)
        script.type("\x03")
        if column == WITH:
            script.wait_for("detach?")
            script.type("\x03")
        assert script.wait() == -signal.SIGINT
        if column == WITHOUT:
            run.is_cancelled()
            return
        script.wait_for("\nsweep: what is outstanding goes on without this program")
        assert "Traceback" not in script.text
    run.goes_on()


def ctrl_c_three_times(run, column):
    with run.start(column, "slow") as script:
        run.wait_until_it_runs(script)
        script.type("\x03")
        if column == WITH:
            script.wait_for("detach? Ctrl-C again within 10 s: 3 calls go on")
            script.type("\x03")
            script.wait_for("slow")  # the input is being read to its end
            script.type("\x03")
        assert script.wait() == -signal.SIGINT
        if column == WITH:
            script.wait_for("sweep: cancelled 5 calls; the results that had come are in the store")
            assert run.phase() == CANCELLED and "Traceback" not in script.text
    run.is_cancelled()


def kill_of_the_script(run, column):
    with run.start(column) as script:
        run.wait_until_it_runs(script)
        script.process.kill()
        script.wait()
    run.touch("go")
    time.sleep(0.3)
    assert len(run.began()) == 2  # what ran may end, but nobody receives it
    run.touch("leave")
    with run.start(WITHOUT) as script:  # again
        assert script.wait() == 0
    assert run.results() == [n * n for n in range(CALLS)]


def ssh_is_cut(run, column):
    with run.start(column) as script:
        run.wait_until_it_runs(script)
        script.hang_up()
        script.wait()
    if column == WITHOUT:
        run.touch("go")
        time.sleep(0.5)
        assert len(run.began()) == 2 and run.results() == []
    else:
        run.goes_on()


def steward_is_killed(run, column):
    run.hand_over()
    os.kill(run.folder.state().pid, signal.SIGKILL)
    wait_until(lambda: not lease.is_held(run.folder, 0.0), LIMIT)
    assert len(run.began()) == 2
    starting.start_steward(run.folder)  # as all do who look at the run
    run.goes_on()


def master_is_killed(run, column):
    """Its successor has the same address, as in Slurm, where both name it in the address file."""
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(Master())
        stack.enter_context(Worker(master.address, "-n", "2"))
        run.master = master.address
        if column == WITH:
            run.hand_over()
        else:
            script = stack.enter_context(run.start(WITHOUT))
            run.wait_until_it_runs(script)
            run.touch("leave")
        master.end(signal.SIGKILL)
        stack.enter_context(Program("-m", "cw.master", "--port", master.port))
        if column == WITH:
            run.goes_on()
        else:
            run.touch("go")
            assert script.wait() == 0
            assert sorted(run.began()) == [*range(CALLS)]


def node_is_lost(run, column):
    """A call that ran there runs again on another node."""
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(Master())
        nodes = [stack.enter_context(Worker(master.address)) for _ in range(2)]
        run.master = master.address
        if column == WITH:
            run.hand_over()
        else:
            script = stack.enter_context(run.start(WITHOUT))
            run.wait_until_it_runs(script)
            run.touch("leave")
        of_node = [nodes[0].pid, *descendants_of(nodes[0].pid)]
        lost = [int(path.name.split(".")[1]) for path in run.directory.glob("began.*")
                if int(path.name.split(".")[3]) in of_node]  # fmt: skip
        for pid in of_node:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if column == WITH:
            run.goes_on(runs_twice=lost)
        else:
            run.touch("go")
            assert script.wait() == 0
            assert sorted(run.began()) == sorted([*range(CALLS), *lost])


def login_node_is_rebooted(run, column):
    """All processes are gone, the program's own cluster among them."""
    run.master = ""
    if column == WITH:
        run.hand_over()
    else:
        script = run.start(WITHOUT)
        run.wait_until_it_runs(script)
    lost = run.began()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            if f"CW_HOME={os.environ['CW_HOME']}".encode() in variables and int(name) != os.getpid():
                os.kill(int(name), signal.SIGKILL)
    if column == WITH:
        starting.start_steward(run.folder)  # as all do who look at the run
        run.goes_on(runs_twice=lost)
        return
    script.__exit__()
    run.touch("go")
    run.touch("leave")
    with run.start(WITHOUT) as script:  # again
        assert script.wait() == 0
    assert run.results() == [n * n for n in range(CALLS)]


CASES = {
    "the block, the loop or the program ends": block_ends,
    "Ctrl-C once": ctrl_c_once,
    "Ctrl-C twice": ctrl_c_twice,
    "Ctrl-C three times": ctrl_c_three_times,
    "`kill -9` of the script": kill_of_the_script,
    "ssh is cut, the terminal is closed": ssh_is_cut,
    "the steward is killed": steward_is_killed,
    "the master is killed": master_is_killed,
    "a node of a worker is lost": node_is_lost,
    "the login node is rebooted": login_node_is_rebooted,
}

SLOW = (
    "the master is killed",
    "a node of a worker is lost",
    "the login node is rebooted",
    "the block, the loop or the program ends",
    "Ctrl-C once",
    "`kill -9` of the script",
)


def cells():
    """Yield row, column and text of each cell of the table."""
    text = (ROOT / "docs" / "detached.md").read_text().partition("## What happens when")[2]
    header, _, *rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    for row in rows:
        for column, cell in zip(header[1:], row[1:], strict=True):
            yield row[0], column, cell


def parameters():
    for row, column, cell in cells():
        if cell != "–":  # there is nothing that could happen
            marks = [pytest.mark.slow] if row in SLOW or column == WITHOUT else []
            yield pytest.param(row, column, marks=marks)


@pytest.mark.parametrize(("row", "column"), list(parameters()))
def test_what_happens_when(run, row, column):
    CASES[row](run, column)


def test_the_table_has_all_cases():
    assert list(dict.fromkeys(row for row, _, _ in cells())) == list(CASES)


# --- what else there is to know ---------------------------------------------------------------


def wait_for_end(store, name):
    folder = RunFolder(store / "runs" / name)
    wait_until(lambda: folder.state().is_over, LIMIT, folder.state)
    return folder.state()


def test_maps_are_handed_over_when_nobody_has_them_any_more_with_all_of_their_input(tmp_path, cluster):
    out, err = run_script(
        tmp_path,
        """
        import cw

        def square(n):
            return n * n

        def items(count):
            yield from range(count)
            print("read")

        def failing():
            yield from range(5)
            raise ValueError("no more")

        if __name__ == "__main__":
            cw.map(square, items(30), store="a.cw", detach=True, buffersize=4)
            print("next")
            for result in cw.map(square, items(40), store="b.cw", detach=True, buffersize=4, chunksize=3):
                break
            print(sum(cw.map(square, range(7), store="c.cw", detach=True)))
            results = cw.starmap(pow, [(2, n) for n in range(20)], store="d.cw", detach="powers", progress="always")
            executor = cw.ClusterExecutor(store="e.cw", detach=True)  # without a block
            future = executor.submit(square, 5)
            try:
                list(cw.map(square, failing(), store="f.cw", detach=True))
            except ValueError as error:
                print(error)
            cw.map(square, failing(), store="g.cw", detach=True)
        """,
        CW_MASTER=cluster.master,
    )
    assert out == "read\nnext\nread\n91\nno more\n"
    assert err.count("ValueError: no more\n") == 1  # of the last one, whose iterator nobody takes
    lines = [line.split(":")[0] for line in err.splitlines() if "goes on without this program" in line]
    assert set(lines) <= {"a", "b", "powers", "e", "f", "g"} and {"a", "b"} <= set(lines)
    for store, name, count in (("a", "a", 30), ("b", "b", 40), ("c", "c", 7), ("d", "powers", 20), ("e", "e", 1),
                               ("f", "f", 5), ("g", "g", 5)):  # fmt: skip
        assert wait_for_end(tmp_path / f"{store}.cw", name).phase == ENDED
        assert len(cw.results(tmp_path / f"{store}.cw")) == count
    values = [record.value for record in cw.results(tmp_path / "b.cw")]
    assert sorted(values) == [n * n for n in range(40)]


@pytest.mark.slow
def test_the_same_script_again_leaves_what_is_under_way_to_its_run(run):
    run.hand_over()
    with run.start(WITH) as script:
        assert script.wait() == 1
        script.wait_for(
            "sweep-2: what is outstanding goes on without this program in an earlier run of its store; come"
        )
    assert len(run.began()) == 2 and run.phase() == STEWARD
    assert RunFolder(run.directory / "sweep.cw" / "runs" / "sweep-2").state().phase == ENDED
    run.goes_on()


@pytest.mark.slow
def test_ctrl_d_at_the_prompt_hands_over(run):
    run.touch("go")
    with Terminal("-i", "-c", "import cw, time", cwd=run.directory, CW_MASTER=run.master) as prompt:
        prompt.wait_for(">>> ")
        prompt.type('executor = cw.ClusterExecutor(store="sweep.cw", detach=True)\n')
        prompt.type(
            'futures = [executor.submit(time.sleep, 0.3 + n / 1e3) for n in range(12)]; "rea" + "dy"\n'
        )
        prompt.wait_for("'ready'")
        prompt.wait_for(">>> ", count=3)
        while prompt.process.poll() is None and "sweep" not in prompt.text.rpartition("ready")[2]:
            prompt.type("\x04")  # (it is lost if the prompt is only being printed)
            time.sleep(0.3)
        prompt.wait()
        assert "sweep: what is outstanding goes on without this program" in prompt.text
    wait_until(lambda: run.phase() == ENDED, LIMIT)
    assert len(cw.results(run.directory / "sweep.cw")) == 12


@pytest.mark.slow
def test_a_forked_child_hands_nothing_over(run):
    """Nor do signals mean anything else to it."""
    out, err = run_script(
        run.directory,
        """
        import os, signal, time
        import cw

        if __name__ == "__main__":
            with cw.ClusterExecutor(store="s.cw", detach=True) as executor:
                future = executor.submit(time.sleep, 0.5)
                for number in (signal.SIGTERM, signal.SIGHUP, None):
                    child = os.fork()
                    if not child:
                        if number is None:
                            raise SystemExit(3)
                        os.kill(os.getpid(), number)
                        time.sleep(10)
                    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                future.result()
        """,
        CW_MASTER=run.master,
    )
    assert out.split() == [str(-signal.SIGTERM), str(-signal.SIGHUP), "3"] and err == ""
    assert RunFolder(run.directory / "s.cw" / "runs" / "s").state().phase == ENDED


def test_what_cannot_detach_says_so_at_once(tmp_path, cluster, monkeypatch):
    with pytest.raises(ValueError, match=r"detach=True needs a store.*give store='sweep\.cw'"):
        cw.map(abs, [1], detach=True)
    with pytest.raises(ValueError, match="'a/b' cannot be the name of a run"):
        cw.ClusterExecutor(store=tmp_path / "s.cw", detach="a/b")
    with pytest.raises(TypeError, match="detach must be True, False or a name for the run, not 3"):
        cw.ClusterExecutor(store=tmp_path / "s.cw", detach=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'detach'"):
        cw.amap(abs, [1], store=tmp_path / "s.cw", detach=True)
    assert not (tmp_path / "s.cw").exists()
    monkeypatch.setattr(address, "started_here", lambda: "lab1:5494")  # as in a block of cw.ssh.allocate
    other = launcher.Cluster("lab1:5494", 1, "", lambda: None)
    other.end_with_program(lambda: None)
    with pytest.raises(cw.DetachError, match="this one ends with its block: use one that stays"):
        detaching.named(detaching.Place("s.cw", "", "lab1:5494"))
    other.stop()
    assert detaching.named(detaching.Place("s.cw", "node7:1", "node7:1")) == "node7:1"
    monkeypatch.undo()
    with cw.ClusterExecutor() as executor:
        future = executor.submit(cw.ClusterExecutor, store=str(tmp_path / "s.cw"), detach=True)
        with pytest.raises(cw.StartRefused, match="detach=True is refused in a job"):
            future.result()


@pytest.mark.slow
def test_a_run_that_cannot_be_handed_over_is_waited_for_and_a_line_says_why(tmp_path, cluster):
    out, err = run_script(
        tmp_path,
        """
        import time
        import cw
        from cw.errors import DetachError
        from cw.runs import starting

        def fail(folder):
            raise OSError("no process can be started")

        starting.start_steward = fail

        def slow(n):
            time.sleep(0.5)
            return n

        if __name__ == "__main__":
            with cw.ClusterExecutor(store="s.cw", detach=True) as executor:
                futures = [executor.submit(slow, n) for n in range(3)]
                try:
                    executor.map(slow, [1], store="t.cw")
                except ValueError as error:
                    print(error)
            print([future.result() for future in futures])
        """,
        CW_MASTER=cluster.master,
    )
    assert (
        out
        == "store='t.cw' for some of the calls: a client that detaches has one store, the executor's\n[0, 1, 2]\n"
    )
    (line,) = [line for line in err.splitlines() if line.startswith("s: ")]
    assert line == (
        "s: cannot detach (the run cannot be handed over: no process can be started); this program waits for its 3 "
        "outstanding calls, and Ctrl-C cancels them"
    )
    assert RunFolder(tmp_path / "s.cw" / "runs" / "s").state().phase == ENDED


@pytest.mark.slow
def test_asyncio_and_an_own_cluster_are_no_exception(tmp_path):
    """The cluster outlives the program, and ends with the run."""
    out, err = run_script(
        tmp_path,
        """
        import asyncio, time
        import cw

        def slow(n):
            time.sleep(1)
            return n

        async def main():
            async with cw.ClusterExecutor(store="s.cw", detach=True, local=2) as executor:
                futures = [executor.submit(slow, n) for n in range(4)]
            try:
                await futures[-1]
            except cw.Detached as error:
                print(error)
            try:
                executor.submit(slow, 5)
            except RuntimeError as error:
                print(error)

        if __name__ == "__main__":
            asyncio.run(main())
        """,
    )
    first, second = out.splitlines()
    assert first.startswith("this call goes on without this program: come back by `") and "shutdown" in second
    assert wait_for_end(tmp_path / "s.cw", "s").phase == ENDED
    assert sorted(record.value for record in cw.results(tmp_path / "s.cw")) == [0, 1, 2, 3]
