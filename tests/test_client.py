"""ClientThread: both forms of submit, callbacks, errors, and what is refused."""

import itertools
import logging
import os
import socket
import threading
import time
from concurrent.futures import CancelledError

import jobs
import pytest
from conftest import events, wait_until
from programs import LIMIT, Master, Program, free_port

import cw
from cw.client import ClientThread


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(2) as cluster:
        yield cluster


class Calls(list):
    """A callback that notes its calls: (job id, result) pairs."""

    def __call__(self, jobid, result):
        self.append((jobid, result))


# --- submit and callback ----------------------------------------------------------------------


def test_each_job_calls_back_once_with_its_id_and_result():
    calls = Calls()
    with ClientThread(calls) as thread:
        expected = {thread.submit(jobs.square, n): n * n for n in range(1000)}
    assert len(calls) == 1000
    assert dict(calls) == expected


def test_keyword_arguments_go_to_the_function():
    calls = Calls()
    with ClientThread(calls) as thread:
        # The names of submit's own parameters, of options, and of what an Executor has.
        names = [
            "function",
            "func",
            "fn",
            "self",
            "jobid",
            "callback",
            "on_error",
            "args",
            "kwargs",
            "timeout",
        ]
        thread.submit(jobs.add, 1, 2, **dict.fromkeys(names, 10))
    assert [result for _, result in calls] == [3 + 10 * len(names)]


def test_a_callers_own_job_id_comes_back():
    calls = Calls()
    with ClientThread(calls) as thread:
        assert thread.submit(7, jobs.square, 3) == 7
        assert thread.submit(-(2**80), jobs.add, 3, b=4) == -(2**80)
        jobid = cw.randid()
        assert thread.submit(jobid, jobs.square, 5) == jobid
    assert dict(calls) == {7: 9, -(2**80): 7, jobid: 25}


def test_random_ids_do_not_repeat():
    assert len({cw.randid() for _ in range(10_000)}) == 10_000
    assert cw.randid is cw.client.randid


def test_an_id_may_be_of_any_integer_type():
    numpy = pytest.importorskip("numpy")
    calls = Calls()
    with ClientThread(calls) as thread:
        thread.submit(numpy.int64(5), jobs.square, 3)
    assert calls == [(5, 9)]


def test_an_id_that_is_outstanding_is_refused(tmp_path):
    calls = Calls()
    with ClientThread(calls) as thread:
        thread.submit(5, jobs.until, tmp_path / "go")
        with pytest.raises(ValueError, match="job id 5 is outstanding"):
            thread.submit(5, jobs.square, 2)
        jobs.mark(tmp_path / "go")
        thread.wait(LIMIT)
        thread.submit(5, jobs.square, 2)
    assert calls == [(5, None), (5, 4)]


def test_an_id_is_free_again_in_its_own_callback():
    results = []

    def callback(jobid, result):
        results.append(result)
        if result < 100:
            thread.submit(jobid, jobs.square, result)

    with ClientThread(callback) as thread:
        thread.submit(1, jobs.square, 2)
    assert results == [4, 16, 256]


def test_an_id_is_free_again_when_its_job_could_not_be_submitted():
    calls = Calls()
    with ClientThread(calls) as thread:
        with pytest.raises(TypeError):
            thread.submit(5, jobs.echo, threading.Lock())
        thread.submit(5, jobs.echo, 1)
    assert calls == [(5, 1)]


def test_numbers_of_both_forms_do_not_get_in_each_others_way():
    calls = Calls()
    with ClientThread(calls) as thread:
        expected = []
        for n in range(50):
            expected.append((thread.submit(jobs.square, n), n * n))
            expected.append((thread.submit(n, jobs.square, -n), n * n))
    assert sorted(calls) == sorted(expected)


@pytest.mark.parametrize(
    "arguments", [(), (5,), (5, 6), ("name", 6), (True, jobs.square), (None, 1), (1.5, print)]
)
def test_what_makes_no_job_is_a_type_error(arguments):
    with ClientThread() as thread, pytest.raises(TypeError):
        thread.submit(*arguments)


def test_jobs_submitted_before_start_run_after_it():
    calls = Calls()
    thread = ClientThread(calls)
    expected = {thread.submit(jobs.square, n): n * n for n in range(10)}
    with pytest.raises(RuntimeError, match=r"before start\(\)"):
        thread.wait()
    with thread:
        pass
    assert dict(calls) == expected


def test_jobs_come_from_many_threads_at_once():
    calls = Calls()
    expected = {}

    def submit(base):
        for n in range(base, base + 200):
            expected[thread.submit(jobs.square, n)] = n * n

    with ClientThread(calls) as thread:
        submitters = [threading.Thread(target=submit, args=(1000 * k,)) for k in range(8)]
        for submitter in submitters:
            submitter.start()
        for submitter in submitters:
            submitter.join()
    assert len(calls) == 1600
    assert dict(calls) == expected


def test_the_package_has_the_names_of_its_modules():
    assert dir(cw.client) == sorted(cw.client.__all__)
    assert all(isinstance(getattr(cw.client, name), type) or name == "randid" for name in cw.client.__all__)
    with pytest.raises(AttributeError, match=r"'cw\.client' has no attribute 'Klient'"):
        cw.client.Klient  # noqa: B018


def test_callbacks_run_in_the_client_thread_one_at_a_time():
    seen = set()
    inside = []

    def callback(jobid, result):
        inside.append(1)
        seen.add((threading.current_thread(), len(inside)))
        time.sleep(0.001)
        inside.pop()

    with ClientThread(callback) as thread:
        for n in range(50):
            thread.submit(jobs.square, n)
    ((where, at_once),) = seen
    assert where is not threading.main_thread()
    assert at_once == 1


def test_a_client_without_a_callback_only_waits(tmp_path):
    with ClientThread() as thread:
        thread.submit(jobs.mark, tmp_path / "ran")
    assert (tmp_path / "ran").exists()


def test_jobs_of_one_client_start_first_come_first_served():
    calls = Calls()
    with cw.mp.allocate(1), ClientThread(calls) as thread:
        thread.submit(jobs.nap, 0.1)
        started = [thread.submit(time.monotonic) for _ in range(500)]
    results = dict(calls)
    times = [results[jobid] for jobid in started]
    assert times == sorted(times)


# --- options ----------------------------------------------------------------------------------


def test_a_job_can_have_a_callback_of_its_own():
    common, own = Calls(), Calls()
    with ClientThread(common) as thread:
        one = thread.submit(jobs.square, 1)
        two = thread.options(callback=own).submit(jobs.square, 2)
        three = thread.options(callback=own).submit(33, jobs.square, 3)
    assert common == [(one, 1)]
    assert sorted(own) == sorted([(two, 4), (33, 9)])
    assert three == 33


def test_options_serve_for_many_jobs_and_take_no_keyword_from_the_function():
    own, errors = Calls(), Calls()
    with ClientThread() as thread:
        careful = thread.options(callback=own, on_error=errors)
        good = [careful.submit(jobs.add, n, callback=1, on_error=2) for n in range(5)]
        bad = careful.submit(jobs.divide, 1, 0)
    assert sorted(own) == [(jobid, n + 3) for n, jobid in enumerate(good)]
    assert [(jobid, type(error)) for jobid, error in errors] == [(bad, ZeroDivisionError)]


def test_what_options_leave_out_is_as_for_the_whole_client():
    common, errors, own = Calls(), Calls(), Calls()
    with ClientThread(common, on_error=errors) as thread:
        thread.options(on_error=own).submit(1, jobs.square, 1)
        thread.options(on_error=own).submit(2, jobs.divide, 1, 0)
        thread.options(callback=own).submit(3, jobs.divide, 1, 0)
        thread.options().submit(4, jobs.square, 4)
    assert sorted(common) == [(1, 1), (4, 16)]
    assert [jobid for jobid, _ in errors] == [3]
    assert [jobid for jobid, _ in own] == [2]


@pytest.mark.parametrize("wrong", ["text", 5, [print]])
def test_a_callback_that_cannot_be_called_is_refused_at_once(wrong):
    with pytest.raises(TypeError, match="callback must be callable"):
        ClientThread(wrong)
    with pytest.raises(TypeError, match="on_error must be callable"):
        ClientThread(on_error=wrong)
    with pytest.raises(TypeError, match="callback must be callable"):
        ClientThread().options(callback=wrong)


def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError):
        ClientThread().options(colour="blue")


# --- errors -----------------------------------------------------------------------------------


def test_on_error_gets_the_jobs_own_exception_and_wait_does_not():
    calls, errors = Calls(), Calls()
    with ClientThread(calls, on_error=errors) as thread:
        good = thread.submit(jobs.square, 2)
        bad = thread.submit(jobs.divide, 1, 0)
        thread.wait(LIMIT)
    assert calls == [(good, 4)]
    ((jobid, error),) = errors
    assert jobid == bad
    assert type(error) is ZeroDivisionError
    assert str(error) == "division by zero"


def test_without_on_error_wait_raises_the_first_when_all_have_ended(tmp_path):
    calls = Calls()
    thread = ClientThread(calls)
    thread.start()
    thread.submit(jobs.divide, 1, 0)
    thread.submit(jobs.until, tmp_path / "go")
    wait_until(lambda: thread.remote_exception, LIMIT)
    thread.submit(jobs.fail, KeyError("the second"))
    with pytest.raises(TimeoutError):
        thread.wait(0.1)  # the error is there, but not all jobs have ended
    jobs.mark(tmp_path / "go")
    with pytest.raises(ZeroDivisionError):
        thread.wait(LIMIT)
    assert [result for _, result in calls] == [None]
    thread.wait()  # raised once
    thread.submit(jobs.fail, KeyError("the third"))
    with pytest.raises(KeyError, match="the third"):
        thread.wait(LIMIT)
    thread.stop()


def test_the_end_of_the_block_raises_the_first_error():
    calls = Calls()
    with pytest.raises(ZeroDivisionError), ClientThread(calls) as thread:
        thread.submit(jobs.divide, 1, 0)
        for n in range(20):
            thread.submit(jobs.square, n)
    assert len(calls) == 20
    assert not thread.is_alive()


def test_an_exception_brings_its_remote_traceback_which_names_job_and_host():
    errors = Calls()
    with ClientThread(on_error=errors) as thread:
        jobid = thread.submit(jobs.divide, 1, 0)
        own = thread.submit(987654321, jobs.divide, 1, 0)
    for (told, error), expected in zip(sorted(errors), [jobid, own], strict=True):
        assert told == expected
        assert isinstance(error.__cause__, cw.RemoteTraceback)
        text = str(error.__cause__)
        assert f"job {expected}" in text
        assert os.uname().nodename in text
        assert "in divide" in text
        assert "return a / b" in text
        assert error.__cause__.where["host"] == os.uname().nodename


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, CancelledError]
)
def test_whatever_a_job_raises_is_its_error(kind):
    errors = Calls()
    with ClientThread(on_error=errors) as thread:
        thread.submit(jobs.fail, kind("as it is"))
        thread.wait(LIMIT)
        pids = Calls()
        thread.options(callback=pids).submit(jobs.pid)
    ((_, error),) = errors
    assert type(error) is kind
    assert error.args == ("as it is",)
    assert len(pids) == 1  # the runner goes on


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, CancelledError])
def test_whatever_a_job_raises_is_raised_by_wait(kind):
    thread = ClientThread()
    thread.start()
    thread.submit(jobs.fail, kind("as it is"))
    with pytest.raises(kind, match="as it is"):
        thread.wait(LIMIT)
    thread.stop()


def test_what_cannot_be_pickled_fails_at_submit_and_is_named():
    errors = Calls()
    with ClientThread(on_error=errors) as thread:
        with pytest.raises(TypeError, match=r"lock.*found at args\[1\]\['deep'\]\[2\]") as caught:
            thread.submit(jobs.echo, 1, {"deep": [0, 1, threading.Lock()]})
        assert isinstance(caught.value, cw.NotPicklable)
        with pytest.raises(TypeError, match="lock"):
            thread.submit(jobs.add, x=threading.Lock())
        lock = threading.Lock()
        with pytest.raises(TypeError, match="lock"):
            thread.submit(lambda: lock)
        with pytest.raises(TypeError, match="generator"):
            thread.submit(5, jobs.echo, (n for n in range(3)))
        thread.wait(0)  # none of them is outstanding
    assert errors == []


def test_a_client_or_a_future_that_shall_travel_is_told_apart():
    with ClientThread() as thread, cw.ClusterExecutor() as executor:
        future = executor.submit(jobs.square, 2)
        for client in thread, executor:
            with pytest.raises(cw.NotPicklable, match="a job that gives out jobs makes a client of its own"):
                thread.submit(lambda client=client: client.submit(jobs.square, 3))
        with pytest.raises(cw.NotPicklable, match="a future cannot travel here: give it as an argument"):
            executor.submit(lambda: future.result())
        assert executor.submit(abs, future).result(LIMIT) == 4  # as an argument it stands for its result


def test_a_result_that_cannot_be_pickled_is_its_jobs_error():
    calls, errors = Calls(), Calls()
    with ClientThread(calls, on_error=errors) as thread:
        bad = thread.submit(threading.Lock)
        good = thread.submit(jobs.square, 2)
    assert calls == [(good, 4)]
    ((jobid, error),) = errors
    assert jobid == bad
    assert isinstance(error, cw.NotPicklable)
    assert "the job's result" in str(error)
    assert "lock" in str(error)


def test_a_result_that_cannot_be_unpickled_is_its_jobs_error():
    calls, errors = Calls(), Calls()
    with ClientThread(calls, on_error=errors) as thread:
        bad = thread.submit(jobs.echo, jobs.OnlyThere(os.getpid()))
        good = thread.submit(jobs.square, 2)
    assert calls == [(good, 4)]
    ((jobid, error),) = errors
    assert jobid == bad
    assert isinstance(error, cw.RemoteException)
    assert "LookupError: not at home" in str(error)
    assert isinstance(error.__cause__, LookupError)


def test_an_exception_that_does_not_pickle_comes_as_a_remote_exception():
    errors = Calls()
    with ClientThread(on_error=errors) as thread:
        thread.submit(jobs.raise_stubborn)
    ((_, error),) = errors
    assert type(error) is cw.RemoteException is cw.client.RemoteException
    assert error.type_name.endswith("Stubborn")
    assert "cannot travel" in str(error)
    assert "raise_stubborn" in error.traceback
    assert isinstance(error.__cause__, cw.RemoteTraceback)


def test_an_exception_with_a_constructor_of_its_own_keeps_type_text_and_attributes():
    errors = Calls()
    with ClientThread(on_error=errors) as thread:
        thread.submit(jobs.raise_demanding)
    ((_, error),) = errors
    assert (type(error), str(error), error.code) == (jobs.Demanding, "too much (7)", 7)


# --- callbacks that fail ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_callback_that_raises_is_logged_and_surfaces_in_wait(kind, caplog):
    results = []

    def callback(jobid, result):
        results.append(result)
        if result == 9:
            raise kind("a slip in the callback")

    thread = ClientThread(callback)
    thread.start()
    for n in range(10):
        thread.submit(jobs.square, n)
    with pytest.raises(kind, match="a slip in the callback"):
        thread.wait(LIMIT)
    assert sorted(results) == [n * n for n in range(10)]
    assert thread.is_alive()
    (record,) = (record for record in caplog.records if record.name == "cw.client")
    assert record.levelno == logging.ERROR and record.event == "client.callback_failed"
    assert "a slip in the callback" in caplog.text
    assert "in callback" in caplog.text
    thread.submit(jobs.square, 11)
    thread.wait(LIMIT)
    assert 121 in results
    thread.stop()


def test_of_many_callbacks_that_raise_the_first_are_logged(caplog):
    def callback(jobid, result):
        raise ValueError(result)

    with ClientThread(callback) as thread:
        for n in range(50):
            thread.submit(jobs.square, n)
        with pytest.raises(ValueError):
            thread.wait(LIMIT)
    assert events(caplog) == ["client.callback_failed"] * 10 + ["client.callbacks_not_logged"]
    assert [bool(record.exc_info) for record in caplog.records] == [True] * 10 + [False]


def test_an_on_error_that_raises_surfaces_in_wait_too():
    def on_error(jobid, error):
        raise ValueError("a slip in on_error") from error

    thread = ClientThread(on_error=on_error)
    thread.start()
    thread.submit(jobs.divide, 1, 0)
    with pytest.raises(ValueError, match="a slip in on_error"):
        thread.wait(LIMIT)
    thread.stop()


# --- from inside a callback -------------------------------------------------------------------


def test_a_callback_can_submit_and_wait_waits_for_that_too():
    results = []

    def callback(jobid, result):
        results.append(result)
        if result < 1000:
            thread.submit(jobs.add, result, result)

    with ClientThread(callback) as thread:
        thread.submit(jobs.add, 1, 0)
        thread.wait(LIMIT)
        assert results == [2**k for k in range(11)]


def test_wait_in_a_callback_raises_instead_of_hanging():
    caught = []

    def callback(jobid, result):
        try:
            thread.wait()
        except RuntimeError as error:
            caught.append(str(error))

    with ClientThread(callback) as thread:
        thread.submit(jobs.square, 1)
    assert len(caught) == 1
    assert "callback" in caught[0]


def test_a_callback_can_stop_the_client(tmp_path):
    errors = Calls()

    def callback(jobid, result):
        thread.stop()

    thread = ClientThread(callback, on_error=errors)
    thread.start()
    thread.submit(jobs.square, 1)
    waiting = thread.submit(jobs.until, tmp_path / "never")
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert [(jobid, isinstance(error, CancelledError)) for jobid, error in errors] == [(waiting, True)]


# --- wait, stop, start ------------------------------------------------------------------------


def test_wait_is_over_only_after_the_callback():
    done = []

    def callback(jobid, result):
        time.sleep(0.1)
        done.append(result)

    with ClientThread(callback) as thread:
        for _ in range(3):
            thread.submit(jobs.square, 2)
            thread.wait(LIMIT)
            assert done.pop() == 4


def test_wait_raises_a_timeout_error_and_can_be_called_again(tmp_path):
    with ClientThread() as thread:
        thread.wait(0)
        thread.submit(jobs.until, tmp_path / "go")
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="1 jobs? "):
            thread.wait(timeout=0.2)
        assert 0.2 <= time.monotonic() - began < 5
        with pytest.raises(TimeoutError):
            thread.wait(0)
        jobs.mark(tmp_path / "go")
        thread.wait(LIMIT)


def test_many_threads_can_wait(tmp_path):
    over = []
    with ClientThread() as thread:
        thread.submit(jobs.until, tmp_path / "go")
        waiting = [threading.Thread(target=lambda: over.append(thread.wait(LIMIT))) for _ in range(4)]
        for waiter in waiting:
            waiter.start()
        assert over == []
        jobs.mark(tmp_path / "go")
        for waiter in waiting:
            waiter.join()
    assert over == [None] * 4


def test_stop_cancels_what_is_outstanding(tmp_path):
    calls, errors = Calls(), Calls()
    thread = ClientThread(calls, on_error=errors)
    thread.start()
    running = [thread.submit(jobs.until, tmp_path / "never", None, tmp_path / str(n)) for n in range(2)]
    queued = [thread.submit(jobs.mark, tmp_path / f"queued {n}") for n in range(50)]
    wait_until(lambda: all((tmp_path / str(n)).exists() for n in range(2)))
    thread.stop()
    assert not thread.is_alive()
    assert calls == []
    assert sorted(jobid for jobid, _ in errors) == running + queued
    assert all(isinstance(error, CancelledError) for _, error in errors)
    with ClientThread(calls) as another:  # the slots are free again, and nothing of the queue is before us
        another.submit(jobs.square, 2)
    assert [path.name for path in tmp_path.iterdir() if "queued" in path.name] == []


def test_after_stop_submit_raises_and_wait_does_not():
    thread = ClientThread()
    thread.start()
    thread.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        thread.submit(jobs.square, 1)
    with pytest.raises(RuntimeError, match="stopped"):
        thread.submit(1, jobs.square, 1)
    thread.wait(0)
    thread.stop()


def test_a_client_stopped_before_it_was_started_cancels_its_jobs():
    errors = Calls()
    thread = ClientThread(on_error=errors)
    jobid = thread.submit(jobs.square, 1)
    thread.stop()
    assert [(number, isinstance(error, CancelledError)) for number, error in errors] == [(jobid, True)]
    thread.wait(0)
    with pytest.raises(RuntimeError):
        thread.start()


def test_a_client_is_started_once():
    with ClientThread() as thread, pytest.raises(RuntimeError, match="started before"):
        thread.start()


def test_an_exception_in_the_block_cancels_what_is_queued(tmp_path):
    with pytest.raises(LookupError), ClientThread() as thread:
        for n in range(50):
            thread.submit(jobs.nap, 0.2)
            thread.submit(jobs.mark, tmp_path / str(n))
        raise LookupError
    assert not thread.is_alive()
    with ClientThread() as another:
        another.submit(jobs.square, 2)
    assert len(list(tmp_path.iterdir())) < 10


def test_a_client_can_be_is_alive_and_joined():
    thread = ClientThread()
    assert not thread.is_alive()
    thread.start()
    assert thread.is_alive()
    thread.join(0.01)
    assert thread.is_alive()
    thread.stop()
    thread.join()
    assert not thread.is_alive()


# --- the master -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["host:port", "host, port"])
def test_the_master_can_be_named(cluster, form):
    host, port = cluster.master.rsplit(":", 1)
    calls = Calls()
    with (
        ClientThread(calls, cluster.master)
        if form == "host:port"
        else ClientThread(calls, host, int(port)) as thread
    ):
        thread.submit(jobs.square, 3)
    assert [result for _, result in calls] == [9]


@pytest.mark.parametrize("host, port", [("a b", None), ("host:0", None), ("host:1", 2), ("host", 70000)])
def test_an_address_that_cannot_be_is_refused_at_once(host, port):
    with pytest.raises(ValueError):
        ClientThread(None, host, port)


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"max_outstanding": 100}, r"max_outstanding is \(jobs, bytes\), .* not 100"),
        ({"max_outstanding": (0, None)}, "a number above 0 or None"),
        ({"max_outstanding": ("1", None)}, "not \\('1', None\\)"),
        ({"connect_timeout": "5"}, "connect_timeout must be a number of seconds, not '5'"),
        ({"reconnect_timeout": -1}, "reconnect_timeout must be a number of seconds, 0 or more, not -1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_at_once(wrong, told):
    with pytest.raises((TypeError, ValueError), match=told):
        ClientThread(**wrong)


def test_without_a_master_start_says_where_it_looked_and_what_to_start():
    port = free_port()
    errors = Calls()
    thread = ClientThread(None, "127.0.0.1", port, on_error=errors, connect_timeout=0.5)
    queued = thread.submit(jobs.square, 1)
    began = time.monotonic()
    with pytest.raises(cw.ConnectionError) as caught:
        thread.start()
    assert 0.2 < time.monotonic() - began < 5
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, ConnectionError)
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "python -m cw.master" in str(caught.value)
    assert [(jobid, type(error)) for jobid, error in errors] == [(queued, cw.ConnectionError)]
    with pytest.raises(cw.ConnectionError):
        thread.submit(jobs.square, 1)
    thread.stop()


def test_start_keeps_trying_until_the_master_is_there():
    port = free_port()
    thread = ClientThread(None, "127.0.0.1", port, connect_timeout=LIMIT)
    started = threading.Thread(target=thread.start)
    started.start()
    time.sleep(0.3)
    assert started.is_alive()
    with Master("--port", str(port)) as master:
        assert master.port == port
        started.join(LIMIT)
        assert not started.is_alive()
        thread.submit(jobs.square, 2)
        with pytest.raises(TimeoutError):
            thread.wait(0.1)  # there is no worker
        thread.stop()


def test_a_server_that_says_nothing_is_no_master():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        thread = ClientThread(None, host, port, connect_timeout=0.5)
        with pytest.raises(cw.ConnectionError, match=f"{port}.*says nothing"):
            thread.start()


def test_a_server_that_speaks_something_else_is_no_master():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connected, _ = listener.accept()
            with connected:
                connected.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                connected.recv(4096)

        server = threading.Thread(target=serve)
        server.start()
        host, port = listener.getsockname()
        with pytest.raises(cw.ConnectionError, match=str(port)):
            ClientThread(None, host, port, connect_timeout=0.5).start()
        server.join()


def test_an_unknown_host_is_told():
    with pytest.raises(cw.ConnectionError, match="no-such-host.invalid"):
        ClientThread(None, "no-such-host.invalid", connect_timeout=0.5).start()


def test_a_lost_master_ends_every_job_with_an_error(tmp_path):
    calls, errors = Calls(), Calls()
    with Master() as master:
        thread = ClientThread(calls, master.address, on_error=errors, reconnect_timeout=0.3)
        thread.start()
        expected = [thread.submit(jobs.square, n) for n in range(100)]
        master.end(9)
        thread.wait(LIMIT)
    assert calls == []
    assert sorted(jobid for jobid, _ in errors) == expected
    assert {type(error) for _, error in errors} == {cw.ConnectionError}
    assert len({id(error) for _, error in errors}) == 100
    assert master.address in str(errors[0][1])
    with pytest.raises(cw.ConnectionError, match="no more jobs"):
        thread.submit(jobs.square, 1)
    thread.stop()


# --- names ------------------------------------------------------------------------------------


def test_the_names_of_the_original_are_there():
    assert cw.PORT == 5494
    for name in ("ClientThread", "ClusterExecutor", "SlurmExecutor", "RemoteException"):
        assert isinstance(getattr(cw.client, name), type)
    assert cw.client.ClientThread is cw.ClientThread
    assert cw.client.ClusterExecutor is cw.ClusterExecutor
    assert issubclass(cw.client.SlurmExecutor, cw.ClusterExecutor)


def test_every_public_name_is_there_and_listed():
    assert set(cw.__all__) <= set(dir(cw))
    for name in cw.__all__:
        assert getattr(cw, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cw.nonsense  # noqa: B018


def test_job_numbers_go_up():
    with ClientThread() as thread:
        numbers = [thread.submit(jobs.square, n) for n in range(10)]
    assert all(a < b for a, b in itertools.pairwise(numbers))


def test_a_cluster_of_which_nothing_is_known_is_told_with_those_that_are():
    with Master(CW_CLUSTER="second"), Program(
        "-c", "import cw; cw.ClusterExecutor(connect_timeout=0.3)", CW_CLUSTER="typo"
    ) as program:  # fmt: skip
        assert program.wait() == 1
        assert "no master of the cluster 'typo' is known" in program.err and "known: 'second')" in program.err
