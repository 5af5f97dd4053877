"""What jobs print comes to their client, all of it before the result, and never as another job's."""

import glob
import os
import signal
import sys
import threading
from pathlib import Path

import jobs
import printing
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Worker, run_script

import cw
from cw.net import messages as m
from cw.net.loop import Loop
from cw.runner.channel import WorkerEnd
from cw.runner.output import Gfortran
from cw.worker.output.output import RunnerOutput


class Recorder:
    """Takes down what comes, in order, by job. What is kept goes on to the session's own sink."""

    def __init__(self, sink):
        self._sink = sink
        self.text, self.left_out, self.kept, self.hosts = {}, {}, {}, set()

    def __getattr__(self, name):
        return getattr(self._sink, name)

    def on_output(self, number, stream, data, host):
        self.text[number, stream] = self.text.get((number, stream), b"") + data
        self.hosts.add(host)

    def on_left_out(self, number, stream, lines, size):
        self.left_out[number, stream] = self.left_out.get((number, stream), 0) + size
        assert lines > 0

    def on_kept(self, number, stdout, stderr, is_cut):
        self.kept[number] = stdout, stderr, is_cut
        self._sink.on_kept(number, stdout, stderr, is_cut)

    def of_last(self):
        """All of the latest job: its stdout and stderr."""
        number = max(number for number, _ in self.text)
        return self.text.get((number, m.STDOUT)), self.text.get((number, m.STDERR))


def recorded(executor):
    output = executor._session.output
    output.sink = recorder = Recorder(output.sink)
    return recorder


@pytest.fixture(scope="module")
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


@pytest.fixture
def executor(cluster):
    with cw.ClusterExecutor() as executor:
        yield executor


def at_the_result(future, recorder):
    """What the recorder had when the future was done."""
    seen = []
    future.add_done_callback(lambda future: seen.append((dict(recorder.text), dict(recorder.kept))))
    future.exception(LIMIT)
    wait_until(lambda: bool(seen), LIMIT)
    return seen[0]


def test_all_that_a_job_prints_comes_before_its_result(executor):
    recorder = recorded(executor)
    text, kept = at_the_result(executor.submit(printing.print_all_ways), recorder)
    assert text == {
        (1, m.STDOUT): b"from Python\nfrom C\nfrom a child\nhalf-half",
        (1, m.STDERR): b"to stderr\nand here",
    }
    assert kept == {} and recorder.hosts == {os.uname().nodename}
    text, kept = at_the_result(executor.options(output="keep").submit(printing.print_all_ways), recorder)
    assert kept[2] == (b"from Python\nfrom C\nfrom a child\nhalf-half", b"to stderr\nand here", False)
    assert {number for number, _ in text} == {1}


def test_of_thousands_of_short_jobs_each_has_its_own_lines(executor):
    recorder = recorded(executor)
    keep = executor.options(output="keep")
    futures = [keep.submit(printing.print_something, number) for number in range(1, 3001)]
    assert all(future.result(LIMIT) is None for future in futures)
    for number in range(1, 3001):
        stdout = b"job %d\n" % number if number % 3 == 0 else b""
        stdout += b"child %d\n" % number if number % 250 == 0 else b""
        stdout += b"C %d;" % number if number % 4 == 0 else b""
        stderr = b"error %d\n" % number if number % 5 == 0 else b""
        kept = recorder.kept.get(number, (b"", b"", False))
        assert (kept[0], kept[1]) == (stdout, stderr), number
        if (number, m.RECORDS) in recorder.text:
            assert recorder.text[number, m.RECORDS] == b"record %d\n" % number and number % 7 == 0


def test_a_job_that_fails_brings_its_last_output_in_any_mode(executor):
    recorder = recorded(executor)
    modes = "print", "keep", "log", "drop"
    for how, error in ("raise", ValueError), ("die", cw.WorkerLost), ("wait", cw.JobTimeout):
        recorder.kept.clear()
        timeout = 2.0 if how == "wait" else None
        futures = [
            executor.options(output=mode, attempts=1, timeout=timeout).submit(printing.print_and_fail, how)
            for mode in modes
        ]
        _, kept = at_the_result(futures[-1], recorder)
        assert [type(future.exception(LIMIT)) for future in futures] == [error] * 4
        assert [text[0] for text in recorder.kept.values()] == [b"last words\nhalf a line"] * 4, how
        assert max(recorder.kept) in kept, "before the result"
    assert set(recorder.text.values()) == {b"last words\nhalf a line"}
    assert len(recorder.text) == 3, "only those of mode print came live"


def test_what_a_job_prints_comes_while_it_runs_also_half_a_line(executor, tmp_path):
    recorder = recorded(executor)
    future = executor.submit(printing.print_and_wait, tmp_path / "go")
    wait_until(lambda: recorder.text.get((1, m.STDOUT)) == b"a line\n50 %", LIMIT, lambda: recorder.text)
    assert not future.done()
    jobs.mark(tmp_path / "go")
    future.result(LIMIT)


def test_a_flood_holds_up_nothing_and_each_byte_of_it_is_counted(executor):
    recorder = recorded(executor)
    size = 40_000_000
    future = executor.submit(printing.flood, size)
    others = [executor.submit(jobs.square, number).result(LIMIT) for number in range(5)]
    assert others == [0, 1, 4, 9, 16]
    future.result(LIMIT)
    text = recorder.text[1, m.STDOUT]
    assert len(text) + recorder.left_out[1, m.STDOUT] == size
    assert 64 * 1024 <= len(text) < size / 2 and set(text.splitlines()) == {b"x" * 99}
    kept = executor.options(output="keep").submit(printing.flood, size)
    kept.result(LIMIT)
    stdout, _, is_cut = recorder.kept[max(recorder.kept)]
    assert is_cut and 60_000 < len(stdout) < 66_000
    (note,) = [line for line in stdout.splitlines() if b"left out" in line]
    assert int(note.split()[1]) == size - len(stdout) + len(note) + 2, "the head ends within a line"


def test_a_job_that_leaves_stdout_full_and_without_blocking_does_no_harm(executor):
    recorder = recorded(executor)
    keeping = executor.options(output="keep", attempts=1)
    for seconds in (0.2, *[0.0] * 20, 0.1):
        keeping.submit(printing.fill_without_waiting, seconds).result(LIMIT)
        stdout, _, _ = recorder.kept[max(recorder.kept)]
        assert stdout.endswith(b"last")
        keeping.submit(printing.flood, 1_000_000).result(LIMIT)
        stdout, _, _ = recorder.kept[max(recorder.kept)]
        assert stdout.startswith(b"x" * 99 + b"\n")


def test_what_comes_outside_of_a_job_and_what_is_to_be_logged_goes_to_the_log(cluster, executor, tmp_path):
    recorder = recorded(executor)
    executor.submit(printing.leave_a_child, tmp_path / "go").result(LIMIT)
    jobs.mark(tmp_path / "go")
    wait_until(lambda: os.path.exists(tmp_path / "go.done"), LIMIT)
    executor.options(output="log").submit(printing.print_all_ways).result(LIMIT)
    executor.options(output="drop").submit(printing.print_all_ways).result(LIMIT)

    def lines():
        text = (Path(cluster.logs) / "worker.log").read_text()
        return [line.partition("] ") for line in text.splitlines() if line.startswith("[")]

    wait_until(lambda: "much later" in [text for _, _, text in lines()], LIMIT, lines)
    by_text = {text: label for label, _, text in lines()}
    assert by_text["much later"].startswith("[process ")
    assert by_text["from C"].startswith("[job 2, process ") == by_text["from a child"].startswith("[job 2,")
    assert [text for _, _, text in lines()].count("from C") == 1, "what is dropped is nowhere"
    assert recorder.text == {}


def test_a_job_that_closes_its_streams_harms_only_itself(executor):
    recorder = recorded(executor)
    executor.submit(printing.close_all).result(LIMIT)
    assert recorder.of_last() == (b"C needs no Python\n", None)
    executor.submit(os.system, "echo still here").result(LIMIT)
    assert recorder.of_last()[0] == b"still here\n"


def library_of_gfortran():
    found = glob.glob(os.path.join(os.path.dirname(os.path.dirname(cw.__file__)), "..", "*", "libgfortran*"))
    for path in sys.path:
        found += glob.glob(os.path.join(path, "*.libs", "libgfortran*.so*"))
    return found[0] if found else None


def test_the_buffers_of_gfortran_are_flushed(executor):
    path = library_of_gfortran()
    if path is None:
        pytest.skip("needs libgfortran, as numpy's or scipy's wheels have it")
    recorder = recorded(executor)
    for _ in range(2):
        text, _ = at_the_result(executor.submit(printing.print_in_fortran, path), recorder)
        assert text[max(text)] == b" from Fortran\n"


def test_a_library_that_is_loaded_later_is_noticed():
    looker = Gfortran()
    looker.look()
    before = looker._loaded
    looker.look()
    assert looker._loaded == before > 0


def test_a_client_that_is_stopped_holds_up_no_other_and_gets_its_results(cluster, executor, tmp_path):
    source = f"""
        import cw, os, sys
        sys.path.append({str(Path(__file__).parent)!r})
        import printing, jobs
        with cw.ClusterExecutor({cluster.master!r}) as executor:
            print(executor.submit(jobs.square, 7).result(), flush=True)
            future = executor.submit(printing.flood, 50_000_000, {str(tmp_path / "flooded")!r})
            jobs.mark({str(tmp_path / "waits")!r})
            print(future.result(), executor.submit(jobs.square, 3).result(), file=sys.stderr)
    """
    ended = []
    thread = threading.Thread(target=lambda: ended.append(run_script(tmp_path, source)))
    thread.start()
    wait_until((tmp_path / "waits").exists, LIMIT)
    (pid,) = [
        int(path.split("/")[2]) for path in glob.glob("/proc/[0-9]*/cmdline")
        if str(tmp_path / "script.py").encode() in _read(path)
    ]  # fmt: skip
    os.kill(pid, signal.SIGSTOP)
    assert [executor.submit(jobs.square, number).result(LIMIT) for number in range(20)][-1] == 361
    wait_until((tmp_path / "flooded").exists, LIMIT)
    os.kill(pid, signal.SIGCONT)
    thread.join(LIMIT)
    out, err = ended[0]
    assert out.splitlines().count("49") == 1 and "None 9" in err


def _read(path):
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def test_what_is_kept_survives_the_master(tmp_path):
    with Master() as master, Worker(master.address) as worker:
        executor = cw.ClusterExecutor(master.address)
        recorder = recorded(executor)
        future = executor.options(output="keep").submit(printing.print_and_wait, tmp_path / "go")
        lines = executor.submit(printing.print_something, 15)
        wait_until(lambda: future.running(), LIMIT)
        master.send_signal(signal.SIGKILL)
        master.wait()
        jobs.mark(tmp_path / "go")
        with Master("--port", str(master.port)):
            assert future.result(LIMIT) is None and lines.result(LIMIT) is None
            assert recorder.kept[1] == (b"a line\n50 %", b"", False)
            assert recorder.text[2, m.STDOUT] == b"job 15\n"
            executor.shutdown()
        assert worker.end() == 0


def test_a_worker_that_ends_does_not_look_at_the_output_again():
    """A look is due some milliseconds after a runner printed little: by then its channel may be closed."""
    loop = Loop()
    end = WorkerEnd(loop)
    RunnerOutput(loop, None, end, lambda *part: None, lambda: None)

    def end_at_once():
        end.output.on_ready(0)
        end.close()

    loop.call_later(0.0, end_at_once)
    loop.call_later(0.2, loop.stop)
    loop.run()
    end.handed_over()
