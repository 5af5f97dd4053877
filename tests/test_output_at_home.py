"""What jobs print, where a user sees it: with real processes, all on one cluster."""

import contextlib
import ctypes
import io
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import wait_until
from programs import LIMIT, ROOT
from test_progress import on_a_terminal

import cw


@pytest.fixture(scope="module")
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def executor(cluster):
    with cw.ClusterExecutor(cluster.master) as executor:
        yield executor


def run(cluster, directory, code, **more):
    """Start a script, with its stdout and stderr in pipes."""
    (directory / "program.py").write_text("if True:\n" + code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CW_MASTER": cluster.master}
    return subprocess.Popen(
        [sys.executable, "program.py"], cwd=directory, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
    )  # fmt: skip


def speak(number):
    print("Python", number, "\u00e9", flush=True)
    print("error", number, file=sys.stderr, flush=True)
    libc = ctypes.CDLL(None)
    libc.puts(b"C %d" % number)
    libc.fflush(None)
    os.system(f"echo child {number}; echo child error {number} >&2")
    return number


SPEECH = "".join(f"Python {n} \u00e9\nC {n}\nchild {n}\n" for n in range(3))
ERRORS = "".join(f"error {n}\nchild error {n}\n" for n in range(3))


# --- as it comes ------------------------------------------------------------------------------


def test_the_users_tests_see_it_with_capsys(executor, capsys):
    assert [executor.submit(speak, n).result() for n in range(3)] == [0, 1, 2]
    assert capsys.readouterr() == (SPEECH, ERRORS)


def test_it_is_there_before_the_result(executor):
    def noisy(number):
        print(f"job {number}")
        os.write(1, b"no end")
        return number

    missing = []
    with contextlib.redirect_stdout(io.StringIO()) as shown:

        def check(future):
            if f"job {future.result()}\n" not in shown.getvalue():
                missing.append(future.result())

        futures = [executor.submit(noisy, number) for number in range(300)]
        for future in futures:
            future.add_done_callback(check)
        assert [future.result() for future in futures] == list(range(300))
        lines = shown.getvalue()
    assert missing == [] and lines.count("no end") == 300
    assert sorted(re.findall(r"job (\d+)\n", lines), key=int) == [str(number) for number in range(300)]


def test_a_file_has_the_bytes_that_a_pool_gives(cluster, tmp_path):
    code = """
    import concurrent.futures, ctypes, os, sys
    import cw

    def speak(number):
        print("Python", number, "\\u00e9", flush=True)
        sys.stdout.buffer.write(b"\\xff\\x00\\r\\n" * number + b"no end")
        sys.stdout.flush()
        libc = ctypes.CDLL(None)
        for _ in range(3):
            libc.printf(b"C %%d\\n", number)
        libc.fflush(None)
        os.system(f"echo child {number}; echo child error {number} >&2")

    if __name__ == "__main__":
        print("before")
        with {} as executor:
            list(executor.map(speak, range(20)))
        print("after")
    """
    pool = run(
        cluster, tmp_path, code.replace("{} as", "concurrent.futures.ProcessPoolExecutor(1) as")
    ).communicate(timeout=LIMIT)
    ours = run(cluster, tmp_path, code.replace("{} as", "cw.ClusterExecutor(max_workers=1) as")).communicate(
        timeout=LIMIT
    )
    before, after = b"before\n", b"after\n"  # (a pool's own text comes when its buffer is written)
    assert ours[0].removeprefix(before).removesuffix(after) == pool[0].replace(before, b"").replace(
        after, b""
    )
    assert ours[1] == pool[1]


def test_a_terminal_has_labels_above_the_bar(cluster, tmp_path):
    _, lines = on_a_terminal(tmp_path, """if True:
    import sys, time, cw
    def simulate(n):
        print("step", n)
        print(f"half\\r\\x1b[2Kwarm {n}", file=sys.stderr)
        time.sleep(0.05)
    def flood(n):
        print("too hot\\n" * 100, end="")
    for _ in cw.map(simulate, range(20), progress=True): pass
    for _ in cw.map(flood, range(2)): pass
    print("after")
    """, CW_MASTER=cluster.master)  # fmt: skip
    host = os.uname().nodename.partition(".")[0]
    labelled = re.compile(rf"\[simulate #\d+ {re.escape(host)}\] (\w+) (\d+)")
    found = [labelled.fullmatch(line) for line in lines[:40]]
    assert all(found), lines
    assert sorted((match[1], int(match[2])) for match in found) == sorted(
        (word, n) for word in ("step", "warm") for n in range(20)
    )
    assert "100%" in lines[40] and "20/20" in lines[40]
    rest = [line for line in lines[41:] if line]
    assert rest[:3] == [rest[0]] * 3 and rest[0].endswith("] too hot") and "after" in rest
    counted = sum(int(n) for n in re.findall(r"\[… the same line (\d+) more times\]", "\n".join(rest)))
    assert counted + sum(line.endswith("] too hot") for line in rest) == 200


def test_a_reader_that_pauses_holds_up_no_results_and_loses_nothing(cluster, tmp_path):
    with run(cluster, tmp_path, """
    import sys, cw
    def line(n):
        print(f"{n:04}" + "x" * 1000)
    for _ in cw.map(line, range(500)): pass
    print("results", file=sys.stderr, flush=True)
    """) as program:  # fmt: skip
        assert program.stderr.readline() == b"results\n"
        assert program.poll() is None  # it waits for the reader
        out = program.stdout.read()
    assert sorted(line[:4] for line in out.split()) == [b"%04d" % n for n in range(500)]


def test_the_last_lines_are_not_lost_at_the_end_of_the_program(cluster, tmp_path):
    out, err = run(cluster, tmp_path, """
    import time, cw
    def last(n):
        print("line", n)
        print("no end", n, end="")
    executor = cw.ClusterExecutor()
    for n in range(2): executor.submit(last, n)
    print("end")
    """).communicate(timeout=LIMIT)  # fmt: skip
    words = [b"line 0\n", b"line 1\n", b"no end 0", b"no end 1", b"end\n"]
    assert all(out.count(each) == 1 for each in words[:4]) and len(out) == sum(map(len, words)) and err == b""


def test_ctrl_c_ends_a_program_whose_reader_pauses(cluster, tmp_path):
    with run(cluster, tmp_path, """
    import sys, cw
    def line(n):
        print("x" * 1000)
    for _ in cw.map(line, range(300)): pass
    print("results", file=sys.stderr, flush=True)
    """, start_new_session=True) as program:  # fmt: skip
        assert program.stderr.readline() == b"results\n"
        began = time.monotonic()
        while program.poll() is None:  # Python may miss one that comes just before a wait
            program.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(3)
        assert time.monotonic() - began < LIMIT and b"Fatal" not in program.stderr.read()


def test_what_is_dropped_and_what_goes_to_the_log_does_not_appear(cluster, executor, capsys):
    for mode in "log", "drop":
        executor.options(output=mode).submit(speak, mode == "log").result()
    assert capsys.readouterr() == ("", "")
    log = os.path.join(cluster.logs, "worker.log")
    wait_until(lambda: "child error True" in open(log).read(), LIMIT)
    assert "Python False" not in open(log).read()


# --- with the result --------------------------------------------------------------------------


def test_kept_output_comes_with_the_future(executor, capsys):
    keeping = executor.options(output="keep")
    futures = [keeping.submit(speak, n) for n in range(3)]
    assert [future.result() for future in futures] == [0, 1, 2]
    assert "".join(future.stdout for future in futures) == SPEECH
    assert "".join(future.stderr for future in futures) == ERRORS
    silent = keeping.submit(abs, -1)
    assert silent.stdout is None or silent.done()
    assert silent.result() == 1 and (silent.stdout, silent.stderr) == ("", "")
    plain = executor.submit(abs, -1)
    assert plain.result() == 1 and (plain.stdout, plain.stderr) == (None, None)
    assert capsys.readouterr() == ("", "")


def test_kept_output_is_that_of_the_last_attempt(executor, tmp_path):
    def dies_first():
        if not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            print("once", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return 7

    future = executor.options(output="keep").submit(dies_first)
    assert future.result() == 7 and future.stdout == ""


def test_the_mode_of_an_executor_holds_where_options_do_not_say(cluster, capsys):
    with cw.ClusterExecutor(cluster.master, output="keep") as executor:
        future = executor.submit(print, "kept")
        other = executor.options(attempts=1).submit(print, "kept, too")
        assert future.result() is other.result() is None
        assert (future.stdout, other.stdout) == ("kept\n", "kept, too\n")
        shown = executor.options(output="print").submit(print, "shown")
        assert shown.result() is None and shown.stdout is None
        with pytest.raises(ValueError, match="needs a store"):
            executor.map(print, "ab")
    assert capsys.readouterr().out == "shown\n"


@pytest.mark.parametrize(
    "call",
    [
        lambda host: cw.map(print, "ab", host=host, output="keep"),
        lambda host: cw.client.ClientThread(print, host).options(output="keep"),
    ],
)
def test_where_kept_output_would_be_lost_that_is_said_at_once(cluster, call):
    with pytest.raises(ValueError, match=r"needs a store.*store=\.\.\."):
        call(cluster.master)
    with pytest.raises(ValueError, match="output must be one of 'print', 'keep', 'log', 'drop'"):
        cw.ClusterExecutor(cluster.master, output="quiet")


def test_a_store_keeps_it_and_gives_it_back(cluster, tmp_path):
    code = """
    import cw

    def step(number):
        print("step", number)
        if number == 2:
            raise ValueError(number)

    for error in cw.map(
        step, range(3), store="s", output="keep", chunksize=2, return_exceptions=True, retry_errors=False
    ): pass
    print(error.__cause__)
    with cw.ClusterExecutor(store="s", output="keep") as executor:
        future = executor.submit(step, 5)
        future.result()
        print(future.is_stored, repr(future.stdout))
    """
    for is_stored in b"False", b"True":
        out, _ = run(cluster, tmp_path, code).communicate(timeout=LIMIT)
        assert b"\n  step 2\n" in out and out.endswith(is_stored + b" 'step 5\\n'\n"), out
    kept = [result.stdout for result in cw.results(tmp_path / "s")]
    assert sorted(kept) == ["step 0\n", "step 1\n", "step 2\n", "step 5\n"]


# --- of a job that fails ----------------------------------------------------------------------


def failing():
    """A function that travels by value: a runner need not import this module, which would count for its time limit."""

    def fail(how):
        os.write(1, b"step 1\n")
        print("hot", file=sys.stderr)
        if how == "raises":
            raise LookupError("no such star")
        if how == "dies":
            os.write(1, b"in the middle of a li")
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    return fail


@pytest.mark.parametrize("mode", ["print", "keep", "log", "drop"])
@pytest.mark.parametrize(
    "how, error", [("raises", LookupError), ("dies", cw.WorkerLost), ("sleeps", cw.JobTimeout)]
)
def test_the_last_output_is_above_the_error(executor, capsys, mode, how, error):
    options = executor.options(output=mode, attempts=1, timeout=0.7 if how == "sleeps" else None)
    future = options.submit(failing(), how)
    with pytest.raises(error) as caught:
        future.result()
    text = str(caught.value.__cause__)
    assert "its last output (stdout):\n  step 1\n" in text and "its last output (stderr):\n  hot\n" in text
    assert ("  in the middle of a li\n" in text) == (how == "dies")
    assert how != "raises" or text.index("step 1") < text.index("in fail")
    assert future.stdout.startswith("step 1\n")
    assert capsys.readouterr().out.startswith("step 1\n") == (mode == "print")
