"""Finding the master, and the files in the user's own directory. No process, no connection."""

import json
import os
import stat
import subprocess
import threading

import pytest
from conftest import events

from cw import processes
from cw.net import address


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A user's own directory that is not there yet, and an environment that names no master."""
    path = tmp_path / "home"
    monkeypatch.setenv("CW_HOME", str(path))
    monkeypatch.delenv("CW_MASTER", raising=False)
    monkeypatch.delenv("CW_CLUSTER", raising=False)
    monkeypatch.setattr(address, "_started_here", [])
    return path


def places(*arguments):
    return [(candidate.host, candidate.port) for candidate in address.find_master(*arguments)]


# --- HOST:PORT ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node7", ("node7", None)),
        ("node7:80", ("node7", 80)),
        (" node7:80 ", ("node7", 80)),
        ("10.0.0.7:65535", ("10.0.0.7", 65535)),
        ("[::1]:5494", ("::1", 5494)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("[::1]", ("::1", None)),
        ("fd00::2", ("fd00::2", None)),
        ("under_score.example.org.", ("under_score.example.org.", None)),
    ],
)
def test_an_address_is_parsed(text, expected):
    assert address.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", ":80", "a:", "a:0", "a:65536", "a:-1", "a:b", "a:8 0", "a b", "a/b", "http://a:80", "u@a",
     "a,b", "[a]:80", "[::1", "[::1]80", "[::1]:", "[]:80", "::1]:80", "::zz", "a:٣", "[[::1]]:80", 5494],
)  # fmt: skip
def test_what_is_no_address_is_a_value_error_that_quotes_it(text):
    with pytest.raises(ValueError) as caught:
        address.parse(text)
    assert repr(text) in str(caught.value)
    assert "give " in str(caught.value)


@pytest.mark.parametrize("port", [0, 65536, -1, True, 1.5, "x", ""])
def test_what_is_no_port_is_a_value_error(port):
    with pytest.raises(ValueError, match="from 1 to 65535"):
        address.find_master("node7", port)


def test_join_is_the_reverse_of_parse():
    for text in ("node7:80", "10.0.0.7:80", "[::1]:80"):
        assert address.join(*address.parse(text)) == text


# --- finding the master ---------------------------------------------------------------------


def test_with_nothing_known_the_master_is_on_this_machine(home):
    assert places() == [("localhost", 5494)]
    assert places(None, 80) == [("localhost", 80)]
    assert not home.exists()


def test_a_host_given_stands_above_all(monkeypatch):
    address.write_address("", 7000)
    address.bind_process("127.0.0.1:7001")
    monkeypatch.setenv("CW_MASTER", "other:7002")
    assert places("node7") == [("node7", 5494)]
    assert places("node7:80") == [("node7", 80)]
    assert places("node7", 80) == [("node7", 80)]
    assert places("node7:80", 80) == [("node7", 80)]
    with pytest.raises(ValueError, match="contradict"):
        places("node7:80", 81)


def test_cw_master_stands_above_the_process_and_the_process_above_the_file(monkeypatch):
    address.write_address("", 7000)
    address.bind_process("127.0.0.1:7001")
    assert places() == [("127.0.0.1", 7001)]
    assert places(None, 80) == [("127.0.0.1", 80)]
    monkeypatch.setenv("CW_MASTER", "other:7002")
    assert places() == [("other", 7002)]
    assert places(None, 80) == [("other", 80)]
    monkeypatch.setenv("CW_MASTER", "[::2]")
    assert places() == [("::2", 5494)]


def test_the_master_of_a_jobs_worker_stands_above_the_file_and_below_what_the_job_starts(monkeypatch):
    monkeypatch.setattr("os.environ", {**os.environ})
    address.write_address("", 7000)
    address.bind_jobs("node7", 7001)
    assert places() == [("node7", 7001)]
    for host, port in (
        ("[fd00::8]:7002", None),
        ("[fd00::8]", 7002),
        ("[fd00::8]:7002", 7002),
        ("fd00::8", 7002),
    ):
        address.bind_jobs(host, port)
        assert places() == [("fd00::8", 7002)]
    address.bind_jobs("fd00::8")  # with the port of the address file, if that is about it
    assert places() == [("fd00::8", 5494)]
    address.bind_process("127.0.0.1:7003")
    assert places() == [("127.0.0.1", 7003)]


def test_the_master_of_the_program_is_that_of_its_children_as_long_as_it_lives(monkeypatch):
    monkeypatch.setattr("os.environ", {**os.environ})
    address.write_address("", 7000)
    address.bind_jobs("node7", 7001)
    address.bind_program("127.0.0.1:7002")
    address._started_here.clear()  # as in a child
    assert places() == [("127.0.0.1", 7002)]
    variable = "CW_MASTER_OF_PROGRAM"
    assert os.environ[variable] == f"127.0.0.1:7002 {processes.identity(os.getpid())}"
    address.bind_process("127.0.0.1:7003")
    address.unbind_process("127.0.0.1:7003")
    assert places() == [("127.0.0.1", 7002)]
    with subprocess.Popen(["true"]) as program:
        os.waitid(
            os.P_PID, program.pid, os.WEXITED | os.WNOWAIT
        )  # it has ended, and nobody has waited for it
        start = processes.look_at(program.pid)[1]
        os.environ[variable] = f"127.0.0.1:7002 {program.pid} {start}"
        assert places() == [("node7", 7001)]
    os.environ[variable] = f"127.0.0.1:7002 {os.getpid()} {start}"  # another process has its number by now
    assert places() == [("node7", 7001)]
    for nonsense in ("", "127.0.0.1:7002", "x y z"):
        os.environ[variable] = nonsense
        assert places() == [("node7", 7001)]
    address.bind_program("127.0.0.1:7002")
    address.unbind_process("127.0.0.1:7002")
    assert places() == [("node7", 7001)] and variable not in os.environ
    address.bind_program("127.0.0.1:7002")
    address.bind_jobs("node7", 7001)  # of a worker that the program has started
    assert variable not in os.environ


def test_an_empty_cw_master_is_none_and_a_wrong_one_is_named(monkeypatch):
    monkeypatch.setenv("CW_MASTER", "")
    assert places() == [("localhost", 5494)]
    monkeypatch.setenv("CW_MASTER", "a:b")
    with pytest.raises(ValueError, match="CW_MASTER.*'a:b'"):
        places()


def test_the_innermost_cluster_of_the_process_is_used():
    address.bind_process("127.0.0.1:7001")
    address.bind_process("127.0.0.1:7002")
    assert places() == [("127.0.0.1", 7002)]
    address.unbind_process("127.0.0.1:7002")
    assert places() == [("127.0.0.1", 7001)]
    address.unbind_process("127.0.0.1:7002")
    address.unbind_process("")
    address.unbind_process("127.0.0.1:7001")
    assert address.started_here() == ""
    assert places() == [("localhost", 5494)]


def test_the_address_file_comes_before_this_machine():
    address.write_address("node7", 7000)
    assert places() == [("node7", 7000), ("localhost", 5494)]
    candidate = address.find_master()[0]
    assert str(candidate) == f"node7:7000 (from {address.address_file()})"


def test_a_master_on_all_interfaces_is_found_first_through_the_loopback_on_its_machine():
    address.write_address("", 7000)
    found = places()
    assert found[0] == ("127.0.0.1", 7000)
    assert (os.uname().nodename, 7000) in found
    assert found[-1] == ("localhost", 5494)


def test_a_master_on_another_machine_is_not_looked_for_on_the_own_loopback(monkeypatch, caplog):
    address.write_address("", 7000)
    monkeypatch.setattr(address, "_machine", lambda: "another")
    assert ("127.0.0.1", 7000) not in places()
    assert (os.uname().nodename, 7000) in places()
    assert not caplog.records


def test_a_master_on_the_loopback_of_another_machine_is_passed_over_with_a_line(monkeypatch, caplog):
    address.write_address("127.0.0.1", 7000)
    assert places() == [("127.0.0.1", 7000), ("localhost", 5494)]
    monkeypatch.setattr(address, "_machine", lambda: "another")
    assert places() == [("localhost", 5494)]
    assert set(events(caplog)) == {"address.not_reachable"}


def test_a_host_without_a_port_gets_the_port_of_the_address_file_that_names_it():
    address.write_address("", 7000)
    name = os.uname().nodename
    assert places(name) == [(name, 7000)]
    assert places(f"{name}:80") == [(f"{name}", 80)]
    assert places("localhost") == [("localhost", 7000)]
    assert places("::1") == [("::1", 7000)]
    assert places("elsewhere") == [("elsewhere", 5494)]
    assert places(name, 80) == [(name, 80)]


def test_cw_master_without_a_port_gets_it_likewise(monkeypatch):
    address.write_address("node7", 7000)
    monkeypatch.setenv("CW_MASTER", "node7")
    assert places() == [("node7", 7000)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("node7", "NODE7", True),
        ("node7", "node7.example.org", True),
        ("node7.example.org.", "node7.example.org", True),
        ("node7.example.org", "node7.example.com", False),
        ("node7", "node70", False),
        ("10.0.0.7", "10.0.0.7", True),
        ("10", "10.0.0.7", False),
        ("fd00:0:0::2", "fd00::2", True),
        ("fd00::2", "fd00::3", False),
    ],
)
def test_hosts_are_compared_as_names_or_as_addresses(one, other, same):
    address.write_address(one, 7000)
    assert places(other) == [(other, 7000 if same else 5494)]


def test_finders_of_other_modules_come_in_their_order(monkeypatch):
    found = address.Candidate("node9", 7009, "from elsewhere")
    monkeypatch.setattr(address, "FINDERS", [*address.FINDERS[:-1], lambda: [found], address.FINDERS[-1]])
    address.write_address("node7", 7000)
    assert places() == [("node7", 7000), ("node9", 7009), ("localhost", 5494)]


# --- the address file -----------------------------------------------------------------------


def test_each_cluster_name_has_its_own_address_file(monkeypatch):
    address.write_address("node7", 7000)
    address.write_address("node8", 7001, name="second")
    assert places()[0] == ("node7", 7000)
    monkeypatch.setenv("CW_CLUSTER", "second")
    assert places() == [("node8", 7001)]
    monkeypatch.setenv("CW_CLUSTER", "secnod")
    assert address.known_clusters() == ["default", "second"]
    assert places() == []  # not who is on this machine at the usual port: that is another cluster
    assert places("node7") == [("node7", 5494)]
    monkeypatch.setenv("CW_CLUSTER", "../second")
    with pytest.raises(ValueError, match="no name for a cluster"):
        places()


def test_a_master_removes_only_its_own_entry():
    first = address.write_address("node7", 7000)
    second = address.write_address("node8", 7001)
    address.remove_address(first)
    assert places()[0] == ("node8", 7001)
    address.remove_address(second)
    assert places() == [("localhost", 5494)]
    address.remove_address(second)


def test_the_file_names_all_addresses_of_a_master_on_all_interfaces():
    address.write_address("::", 7000)
    both = address.read_address()
    address.write_address("0.0.0.0", 7000)
    only_ipv4 = address.read_address()
    assert os.uname().nodename in both["addresses"]
    assert both["loopback"] == ["127.0.0.1"]
    assert not [host for host in only_ipv4["addresses"] if ":" in host]
    assert set(only_ipv4["addresses"]) <= set(both["addresses"])
    assert both["pid"] == os.getpid()


@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_file_is_private_whatever_the_umask_is(home, umask):
    old = os.umask(umask)
    try:
        address.write_address("node7", 7000)
    finally:
        os.umask(old)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()}
    assert modes == {"address-default.json": 0o600, "address-default.json.lock": 0o600}


def test_readers_see_a_whole_file_while_it_is_written():
    address.write_address("node0", 7000)
    is_over = threading.Event()

    def write():
        for number in range(200):
            address.write_address(f"node{number}", 7000 + number)
        is_over.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not is_over.is_set():
        host, port = places()[0]
        assert host == f"node{port - 7000}"
    writer.join()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"port": 5}', "\ud800", "null"])
def test_a_file_that_makes_no_sense_is_passed_over_with_a_line(home, caplog, content):
    address.make_home()
    address.write_private("address-default.json", content.encode(errors="surrogatepass"))
    assert places() == [("localhost", 5494)]
    assert set(events(caplog)) == {"address.file_invalid"}


def test_a_file_with_a_wrong_port_is_passed_over(home):
    address.write_address("node7", 7000)
    entry = json.loads((home / "address-default.json").read_text())
    for port in ("7000;x", None, 0, 1e9):
        address.write_private("address-default.json", json.dumps({**entry, "port": port}).encode())
        assert places() == [("localhost", 5494)]
