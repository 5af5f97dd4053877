"""The master as a program: how it starts, what it answers to whom, and how it shares the workers among clients."""

import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import jobs
import pytest
from conftest import events, wait_until
from programs import LIMIT, Master, Program, Relay, Worker, free_port, is_running, start_script

import cw
from cw import credential
from cw.net import address, memory, tls, wire
from cw.net import messages as m


@pytest.fixture(scope="module")
def master():
    with Master() as master:
        yield master


class Peer:
    """A client or worker made of a socket and the wire format alone."""

    def __init__(self, master, role="worker", *, python=None, protocol=m.PROTOCOL, slots=1, hello=True):
        plain = socket.create_connection(("127.0.0.1", master.port), LIMIT)
        self.socket = tls.Contexts(credential.load()).client.wrap_socket(plain)
        self._decoder = wire.Decoder()
        self._messages = []
        if hello:
            python = list(sys.version_info[:2]) if python is None else python
            capacity = {"slots": slots} if role == "worker" else {}
            secret = os.urandom(16).hex() if role == "client" else ""
            self.send(
                m.Hello(
                    role, os.urandom(16).hex(), secret, protocol, python, "9.9", "elsewhere", 1, capacity, 0
                )
            )

    def send(self, message):
        for frame in wire.encode(message):
            self.socket.sendall(b"".join(map(bytes, frame)))

    def receive(self, kind=None):
        """The next message (of this kind); None at the end."""
        while True:
            while self._messages:
                message = self._messages.pop(0)
                if kind is None or type(message) is kind:
                    return message
            data = self.socket.recv(65536)
            if not data:
                return None
            self._messages += self._decoder.feed(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


# --- start and end ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_master_ends_cleanly_on_ctrl_c_and_sigterm_and_tells_its_peers(number):
    with Master() as master, Worker(master.address) as worker:
        executor = cw.ClusterExecutor(master.address, reconnect_timeout=0)
        future = executor.submit(jobs.nap, 1000)
        wait_until(future.running, LIMIT)
        assert master.end(number) == 0
        assert "Traceback" not in master.err
        assert isinstance(future.exception(LIMIT), cw.ConnectionError)
        assert "the master ends" in str(future.exception(LIMIT))
        worker.wait_for_event("worker.master_gone", "the master ends")


def test_port_0_takes_a_free_port_and_the_address_file_tells_it():
    home = Path(os.environ["CW_HOME"])
    with Master() as master:
        (path,) = home.glob("*.json")
        noted = json.loads(path.read_text())
        assert noted["port"] == master.port
        assert path.stat().st_mode & 0o777 == 0o600
        with Worker() as worker:  # finds it by the file
            assert worker.process.poll() is None
            with cw.ClusterExecutor() as executor:  # so does a client
                assert executor.submit(jobs.square, 2).result(LIMIT) == 4
        assert master.end() == 0
    assert list(home.glob("*.json")) == []


def test_a_master_removes_only_its_own_address_file():
    home = Path(os.environ["CW_HOME"])
    with Master() as first, Master() as second:
        (path,) = home.glob("*.json")
        assert json.loads(path.read_text())["port"] == second.port
        assert first.end() == 0
        assert json.loads(path.read_text())["port"] == second.port
        assert second.end() == 0
    assert list(home.glob("*.json")) == []


def test_an_entry_of_a_master_that_was_killed_is_passed_over(monkeypatch):
    monkeypatch.setattr(address, "PORT", free_port())  # at the usual one there may be somebody's master
    with Master() as killed:
        killed.end(signal.SIGKILL)
    with pytest.raises(cw.ConnectionError, match=f":{killed.port}: Connection refused"):
        cw.ClusterExecutor(connect_timeout=0.2)


def test_a_given_port_that_is_taken_is_told_in_one_line():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with Program("-m", "cw.master", "--port", port) as master:
            assert master.wait() == 1
            assert master.err == (
                f"cw.master: port {port} is taken: give another with --port, or 0 for a free one\n"
            )


def test_a_taken_default_port_gives_way_to_a_free_one(usual_port):
    try:
        taken = socket.create_server(("", cw.PORT))
    except OSError:
        pytest.skip("somebody else has the default port")
    with taken, Program("-m", "cw.master") as master:
        line = master.wait_for_event("master.listening")
        assert f"port {cw.PORT} " in master.lines_of("master.port_taken")[0]
        port = int(re.search(r"port (\d+)", line)[1])
        assert port != cw.PORT
        assert json.loads(next(Path(os.environ["CW_HOME"]).glob("*.json")).read_text())["port"] == port
        assert master.end() == 0


def test_the_default_port_is_5494(usual_port):
    with Program("-m", "cw.master") as master:
        line = master.wait_for_event("master.listening")
        if "master.port_taken" in master.events:
            pytest.skip("somebody else has the default port")
        assert "port 5494; workers: python -m cw.worker " in line
        assert master.end() == 0


@pytest.mark.parametrize(
    "arguments, status, text",
    [
        (["--host", "no-such-host.invalid"], 1, "'no-such-host.invalid' is unknown"),
        (["--host", "192.0.2.1", "--port", "0"], 1, "cannot listen on 192.0.2.1:0"),
        (["--port", "99999"], 2, "99999"),
        (["--port", "x"], 2, "'x' is no port"),
        (["--colour"], 2, "unrecognized arguments"),
        (["extra"], 2, "unrecognized arguments"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(arguments, status, text):
    with Program("-m", "cw.master", *arguments) as master:
        assert master.wait() == status
        assert text in master.err
        assert "Traceback" not in master.err


def test_help_and_version_go_to_stdout():
    for option in ("--help", "--version"):
        with Program("-m", "cw.master", option) as master:
            assert master.wait() == 0
            assert master.err == ""
            assert ("--port" if option == "--help" else f"cw {cw.__version__}") in master.out


def test_logs_have_time_stamps_and_v_gives_more():
    with Master() as plain, Master("-v") as verbose:
        for master in (plain, verbose):
            with socket.create_connection(("127.0.0.1", master.port)):
                pass
            with Worker(master.address):
                master.wait_for_event("master.worker_joined")
            master.wait_for_event("master.worker_gone")
            stamp = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} cw\.\w+ [A-Z]+: "
            assert all(re.match(stamp, line) for line in master.err.splitlines())
        verbose.wait_for("DEBUG")
        assert "DEBUG" not in plain.err


# --- versions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["client", "worker"])
def test_another_protocol_is_refused_with_what_to_do(master, role):
    with Peer(master, role, protocol=m.PROTOCOL + 1) as peer:
        refused = peer.receive()
        assert type(refused) is m.Refused
        assert f"protocol {m.PROTOCOL + 1}" in refused.reason
        assert f"protocol {m.PROTOCOL})" in refused.reason
        assert "install the same cw" in refused.reason
        assert peer.receive() is None


def test_a_refused_client_raises_what_the_master_says(monkeypatch):
    with Master() as master:
        monkeypatch.setattr(m, "PROTOCOL", m.PROTOCOL + 1)
        with pytest.raises(cw.ConnectionError, match=r"refused this client.*install the same cw on both"):
            cw.ClusterExecutor(master.address)


@pytest.mark.slow
def test_a_client_whose_python_no_worker_runs_is_told_once_in_one_sentence(master, caplog):
    caplog.set_level(logging.WARNING, "cw")
    with Peer(master, python=[3, 99]) as other, Peer(master, python=[3, 98]) as another:
        for peer in (other, another):
            assert type(peer.receive()) is m.Welcome
            peer.send(m.InventoryEnd([]))
        executor = cw.ClusterExecutor(master.address)
        future = executor.submit(jobs.square, 5)
        wait_until(lambda: caplog.records, LIMIT)
        own = "{}.{}".format(*sys.version_info)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert f"the program runs Python {own}" in record.getMessage()
        assert "run Python 3.98, 3.99" in record.getMessage()
        with Worker(master.address):  # of the right version: the others are simply not given the jobs
            assert future.result(LIMIT) == 25
        executor.shutdown()
        assert (
            events(caplog).count("client.waits") == 1 and len(caplog.records) <= 2
        )  # perhaps that it is over
        other.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            while type(other.receive()) in (m.Heartbeat, type(None)):
                pass


@pytest.mark.slow
def test_a_client_without_any_worker_is_told(master, caplog):
    caplog.set_level(logging.WARNING, "cw")
    executor = cw.ClusterExecutor(master.address)
    future = executor.submit(jobs.square, 5)
    wait_until(lambda: "no worker is connected" in caplog.text, LIMIT)
    assert future.cancel()
    executor.shutdown()


@pytest.fixture(scope="module")
def other_python():
    """Another minor version of Python, with what cw needs."""
    import bluelet
    import cloudpickle

    for path in Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python"):
        version = tuple(map(int, path.parts[-3].split(".")[:2]))
        if version >= (3, 10) and version != sys.version_info[:2]:
            found = {str(Path(module.__file__).parent) for module in (bluelet, cloudpickle)}
            return path, version, found
    pytest.skip("no other Python is here")


def test_a_worker_of_another_python_is_not_given_the_jobs_of_this_one(
    master, other_python, tmp_path, monkeypatch
):
    import bluelet
    import cloudpickle

    path, version, _ = other_python
    # What is of pure Python, and no more of these site-packages.
    for module in (bluelet, cloudpickle):
        source = Path(module.__file__)
        source = source.parent if source.name == "__init__.py" else source
        (tmp_path / source.name).symlink_to(source)
    monkeypatch.setattr(sys, "executable", str(path))
    search = os.pathsep.join([str(Path(cw.__file__).parent.parent), str(tmp_path)])
    with Worker(master.address, PYTHONPATH=search, PYTHONDONTWRITEBYTECODE="1"):
        monkeypatch.undo()
        master.wait_for_event("master.worker_joined", "Python {}.{}".format(*version))
        with cw.ClusterExecutor(master.address) as executor:
            future = executor.submit(_version)
            with Worker(master.address):
                assert future.result(LIMIT) == tuple(sys.version_info[:2])
                assert set(executor.map(_version, *[range(0)])) == set()
                results = [executor.submit(_version) for _ in range(20)]
                assert {result.result(LIMIT) for result in results} == {tuple(sys.version_info[:2])}


def _version():
    return tuple(sys.version_info[:2])


# --- who shares it ----------------------------------------------------------------------------


def test_a_client_with_ten_jobs_is_not_behind_anothers_thousands(master):
    with Worker(master.address):
        many, few = cw.ClusterExecutor(master.address), cw.ClusterExecutor(master.address)
        first = [many.submit(jobs.nap, 0.01) for _ in range(2000)]
        first[20].result(LIMIT)
        second = [few.submit(jobs.nap, 0.01, n) for n in range(10)]
        assert [future.result(LIMIT) for future in second] == list(range(10))
        done = sum(future.done() for future in first)
        assert done < 500  # 20 s of work: in turns the ten are through after some 20 of them
        many.shutdown(wait=False, cancel_futures=True)
        few.shutdown()


def test_a_worker_gets_in_one_message_what_came_in_many_and_is_told_what_the_client_has(master):
    with Peer(master, "client", python=[3, 98]) as client, Peer(master, python=[3, 98], slots=5) as worker:
        worker.send(m.InventoryEnd([]))
        client.receive(m.Window)
        client.send(m.ResubmitEnd())
        client.send(m.Objects([0, 0], [1, 2], [m.ENVIRONMENT, m.FUNCTION], [(), (1,)], [b"here", b"f"]))
        while not any(client.receive(m.Roster)):
            pass  # the worker has joined
        submits = [
            frame for number in range(1, 6) for frame in wire.encode(m.Submit([number], [2], [0], [b"()"]))
        ]
        client.socket.sendall(b"".join(b"".join(frame) for frame in submits))
        dispatch = worker.receive(m.Dispatch)
        assert dispatch.numbers == [1, 2, 3, 4, 5]
        worker.send(m.Results(dispatch.dispatches, [m.DONE] * 5, [1.0] * 5, [b"r"] * 5))
        assert client.receive(m.Results)[0] == [1, 2, 3, 4, 5]  # (JobResults, of the same kind)
        client.send(m.Received([5]))
        assert worker.receive(m.Release) == m.Release(dispatch.dispatches)


def test_many_clients_share_the_workers_and_each_gets_its_own(master):
    def work(k):
        with cw.ClusterExecutor(master.address) as executor:
            results[k] = list(executor.map(jobs.add, range(300), [1000 * k] * 300))

    results = {}
    with Worker(master.address, "-n", "2"):
        threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {k: [1000 * k + n for n in range(300)] for k in range(6)}


def test_programs_of_different_directories_share_a_worker(master, tmp_path):
    scripts = []
    with Worker(master.address):
        for name in ("one", "two", "three"):
            (tmp_path / name).mkdir()
            source = f"""
                import os, cw
                NAME = {name!r}
                def work(n): return NAME, os.path.basename(os.getcwd()), n
                with cw.ClusterExecutor() as executor:
                    print(set(executor.map(work, range(200))) == {{(NAME, NAME, n) for n in range(200)}})
            """
            scripts.append(start_script(tmp_path / name, source, CW_MASTER=master.address))
        for script in scripts:
            with script:
                assert script.wait() == 0, script.err
                assert script.out == "True\n"


# --- windows and control messages -------------------------------------------------------------


def resident(pid):
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_masters_memory_is_bounded_however_much_is_submitted(tmp_path):
    with Master() as master:
        executor = cw.ClusterExecutor(master.address)
        before = resident(master.pid)
        futures = [executor.submit(len, bytes(100_000 + n)) for n in range(3000)]  # 300 MB
        time.sleep(0.5)
        assert resident(master.pid) - before < 150e6
        with Worker(master.address):
            assert [future.result(LIMIT) for future in futures] == [100_000 + n for n in range(3000)]
            assert resident(master.pid) - before < 250e6
            executor.shutdown()


@pytest.mark.parametrize("where", ["to the worker", "from the client"])
def test_a_cancel_overtakes_large_payloads_that_are_on_their_way(tmp_path, where):
    # 160 MB through a network that takes some 5 s for them.
    with Master() as master, Relay(master.port, rate=30e6) as relay:
        worker_at, client_at = (relay, master) if where == "to the worker" else (master, relay)
        with Worker(worker_at.address, "-n", "2"):
            busy, other = cw.ClusterExecutor(client_at.address), cw.ClusterExecutor(client_at.address)
            list(busy.map(jobs.square, range(10)))
            list(other.map(jobs.square, range(10)))
            long = busy.submit(jobs.until, tmp_path / "never", None, tmp_path / "pid")
            large = [busy.submit(len, bytes(40_000_000 + n)) for n in range(4)]
            wait_until((tmp_path / "pid").exists, LIMIT)
            pid = int((tmp_path / "pid").read_text())
            began = time.monotonic()
            busy._session.jobs.started.clear()  # else it may be known to run, and stay
            assert busy._session.submitter.cancel(long._number)
            wait_until(lambda: not is_running(pid), LIMIT)
            assert time.monotonic() - began < 3
            assert not all(future.done() for future in large)
            # And small jobs of others are not stuck behind it either.
            assert other.submit(jobs.square, 3).result(LIMIT) == 9
            assert time.monotonic() - began < 6
            assert not all(future.done() for future in large)
            busy._session.close(is_waiting=False)
            other.shutdown()


@pytest.mark.parametrize("where", ["to the worker", "from the client"])
def test_the_bytes_of_a_cancelled_job_stop_flowing_and_the_next_job_runs(where):
    size = 200_000_000  # for which this network takes some 7 s
    with Master() as master, Relay(master.port, rate=30e6) as relay:
        worker_at, client_at = (relay, master) if where == "to the worker" else (master, relay)
        with Worker(worker_at.address), cw.ClusterExecutor(client_at.address) as executor:
            assert executor.submit(jobs.square, 2).result(LIMIT) == 4
            large = executor.submit(len, bytes(size))
            wait_until(lambda: relay.passed > 20e6, LIMIT)
            assert large.cancel()
            assert executor.submit(jobs.square, 3).result(LIMIT) == 9
            assert relay.passed < size / 2
            assert executor.submit(len, bytes(3_000_000)).result(LIMIT) == 3_000_000
            assert large.cancelled()


def test_a_client_is_told_of_the_room_for_its_shared_values(master):
    with Peer(master, "client") as client:
        assert client.receive(m.SharedRoom).size == memory.half_of_all()


def test_a_slow_client_does_not_slow_the_others_down(master):
    # It submits jobs with large results and takes none of them.
    with Worker(master.address, "-n", "2"), Peer(master, "client") as slow:
        slow.receive(m.Window)
        from cw.client.functions.functions import FunctionTable
        from cw.client.session.objects import ObjectTable
        from cw.net.objects import closure, objects_message

        table = ObjectTable()
        function, payload = FunctionTable(table).call(bytes, (3_000_000,), {})
        slow.send(objects_message(closure([table.get(function)])))
        numbers = list(range(1, 101))
        slow.send(m.Submit(numbers, [function] * 100, [0] * 100, [payload] * 100))
        before = resident(master.pid)
        began = time.monotonic()
        with cw.ClusterExecutor(master.address) as executor:
            assert list(executor.map(jobs.square, range(1000))) == [n * n for n in range(1000)]
        assert time.monotonic() - began < 10
        assert resident(master.pid) - before < 200e6
