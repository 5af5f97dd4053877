"""`cw ssh`: names, plans, first looks, notes; and three real machines with sshd (tests/ssh_lab.py)."""

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ssh_lab as lab

import cw
from cw import credential, userdir
from cw.net import address
from cw.ssh import cluster, connection, hosts, known, plan, probe, sending, tunnels
from cw.ssh.connection import Answer
from cw.ssh.hosts import Host
from cw.ssh.plan import Options, Plan

ROOT = lab.ROOT


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, host",
    [
        ("lab1", Host("lab1")),
        ("lab2:8", Host("lab2", 8)),
        (" ann@lab3.example.org:16 ", Host("ann@lab3.example.org", 16)),
        ("10.0.0.7:2", Host("10.0.0.7", 2)),
        ("ann@[2001:db8::7]:4", Host("ann@2001:db8::7", 4)),
        ("[fe80::1%eth0]", Host("fe80::1%eth0")),
    ],
)
def test_a_machine_is_named_as_ssh_takes_it_with_a_number_of_slots(text, host):
    assert hosts.parse(text) == host
    assert hosts.parse(str(host)) == host


@pytest.mark.parametrize("text", ["-oProxyCommand=id", "-", "--", "ann@-oProxyCommand=id", " -x"])
def test_a_name_that_begins_with_a_dash_is_refused(text):
    with pytest.raises(ValueError, match="ssh would take what begins with '-' for an option"):
        hosts.parse(text)


@pytest.mark.parametrize(
    "text", ["", "lab 1", "lab1;id", "$(id)", "a@b@c", "lab1:0", "lab1:x", "lab1:", "lab1:99999"]
)
def test_what_is_no_name_is_refused_with_what_to_give(text):
    with pytest.raises(ValueError, match="give HOST"):
        hosts.parse(text)


def test_a_machine_is_named_once_and_a_file_names_more(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# the lab\nlab1 lab2:8\n\nann@lab3  # on the window\n")
    assert hosts.read_file(str(path)) == ["lab1", "lab2:8", "ann@lab3"]
    with pytest.raises(ValueError, match="lab1 is named twice"):
        hosts.parse_all(["lab1", "lab2", "lab1:8"])
    with pytest.raises(TypeError, match="a list of names"):
        hosts.parse_all("lab1")


# --- plans ------------------------------------------------------------------------------------


def test_what_is_not_said_is_as_at_the_last_start():
    first = plan.resolve(Options(["lab1", "lab2:8"], tunnel=True, ssh_options=["-J", "gate"]), Plan())
    again = plan.resolve(Options(["lab2:4", "lab3"]), first)
    assert again.hosts == (Host("lab1"), Host("lab2", 4), Host("lab3"))
    assert again.tunnel and again.ssh_options == ("-J", "gate")
    assert plan.resolve(Options(tunnel=False), again) == again._replace(tunnel=False)
    assert Plan.load(json.loads(json.dumps(again._asdict()))) == again


@pytest.mark.parametrize(
    "options, text",
    [
        (Options(), "no machine is named"),
        (Options(["lab1"], master="lab2"), "is not among the machines"),
        (Options(["lab1"], master="lab1:4"), "is not among the machines"),
        (Options(["lab1"], port=70000), "is no port"),
        (Options(["lab1"], ssh_options="-4"), "is a list of arguments"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options, text):
    with pytest.raises((ValueError, TypeError), match=text):
        plan.resolve(options, Plan())


def test_only_what_concerns_the_master_needs_another_one():
    noted = plan.resolve(Options(["lab1", "lab2"]), Plan())
    assert plan.change_of_master(noted, plan.resolve(Options(["lab3"], python="/opt/python"), noted)) == ""
    for change in (
        Options(tunnel=True),
        Options(port=4000),
        Options(master="lab2"),
        Options(master_options=["-v"]),
    ):
        assert plan.change_of_master(noted, plan.resolve(change, noted))


def test_a_machine_looks_for_the_master_where_its_ssh_server_sees_us_first():
    here, there = Plan((Host("lab1"), Host("lab2"))), Plan((Host("lab1"), Host("lab2")), master="lab1")
    found = ["10.0.0.1", "192.168.7.1"]
    assert plan.order_of_masters(here, "lab1", "192.168.7.1", found, 7) == ["192.168.7.1:7", "10.0.0.1:7"]
    # A jump host is no address of ours.
    assert plan.order_of_masters(here, "lab1", "172.16.0.9", found, 7) == ["10.0.0.1:7", "192.168.7.1:7"]
    assert plan.order_of_masters(there, "lab1", "", found, 7)[0] == "127.0.0.1:7"
    assert plan.order_of_masters(there, "lab2", "", found, 7)[0] == "10.0.0.1:7"
    assert there._replace(tunnel=True).tunnelled() == ["lab2"] and there.tunnelled() == []


# --- the first look ---------------------------------------------------------------------------


def test_the_look_finds_this_python_with_cw_and_ends_there():
    done = subprocess.run(
        ["sh"],
        input=probe.script(),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    look = probe.parse(f"Welcome!\ncw: python nonsense\n{done.stdout}")
    assert look.node == os.uname().nodename
    assert probe.choose(look).python == look.pythons[-1].path


@pytest.mark.parametrize(
    "pythons, python, text, can_install",
    [
        ([], "", "no Python is found there: install Python 3.11", False),
        ([("/p9", (3, 9), "")], "", r"its Python is 3.9 \(/p9\), this one is 3.11", False),
        ([("/p9", (3, 9), ""), ("/p11", (3, 11), "")], "/p11", "there is no cw for its Python 3.11", True),
        ([("/p11", (3, 11), "1.0")], "/p11", "its cw is 1.0, this one is 2.0", True),
        ([("/a", (3, 11), ""), ("/b", (3, 11), "1.0"), ("/c", (3, 11), "2.0")], "/c", "", False),
    ],
)
def test_the_python_must_be_of_the_clients_version_with_its_cw(pythons, python, text, can_install):
    look = probe.Look("lab1", pythons=tuple(probe.Python(*one) for one in pythons))
    found = probe.choose(look, (3, 11), "2.0")
    assert found.python == python and found.can_install == can_install
    assert re.match(text, found.problem) if text else not found.problem


def test_what_is_installed_is_what_setup_needs():
    needed = re.search(r"install_requires=(\[.*?\])", (ROOT / "setup.py").read_text(), re.DOTALL)[1]
    names = {re.match(r"[\w-]+", text)[0] for text in ast.literal_eval(needed)}
    assert names == {*sending.REQUIREMENTS, "tomli"}  # an older Python's, for Slurm's settings


# --- ssh --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "err, reason, may_ask",
    [
        (
            "Warning: Permanently added 'lab1'\nann@lab1: Permission denied (publickey).\n",
            "Permission denied",
            True,
        ),
        (
            "No ED25519 host key is known for lab1\nHost key verification failed.\r\n",
            "Host key verification",
            True,
        ),
        (
            "ssh: connect to host lab1 port 22: No route to host\n",
            "connect to host lab1 port 22: No route",
            False,
        ),
        ("", "exit status 255", False),
    ],
)
def test_the_reason_is_sshs_own_and_a_question_is_asked_only_where_it_helps(err, reason, may_ask):
    answer = Answer(255, "", err)
    assert reason in answer.reason and answer.may_ask == may_ask
    assert not Answer(1, "", err).may_ask


def test_the_users_options_stand_before_ours_and_the_name_after_the_end_of_options():
    command = connection.tunnel_command(["-o", "ConnectTimeout=99"], "lab1", ["-R", "1:2:3"])
    assert command.index("ConnectTimeout=99") < command.index("ConnectTimeout=10")
    assert command[-2:] == ["--", "lab1"] and "BatchMode=yes" in command


def test_a_tunnel_is_tried_again_ever_more_slowly_until_it_has_been_steady():
    retries = tunnels.Retries()
    waits = [retries.on_end(0.1) for _ in range(20)]
    assert waits == sorted(waits) and waits[0] == tunnels.FIRST_WAIT_SECONDS
    assert waits[-1] == tunnels.LONGEST_WAIT_SECONDS
    assert retries.on_end(tunnels.STEADY_SECONDS) == tunnels.FIRST_WAIT_SECONDS


# --- notes ------------------------------------------------------------------------------------


@pytest.fixture
def noted(monkeypatch):
    """Notes on a cluster whose master was here."""
    monkeypatch.setattr(credential, "OF_MASTERS", {})
    with known.locked("default") as state:
        os.mkdir(state.directory)
        state.token, state.node, state.port = "abcd", os.uname().nodename, 4000
        state.hosts = ["127.0.0.1", "10.0.0.1"]
        state.machines = {"lab1": known.Machine(4, "/p11", "no", 7), "lab2": known.Machine()}
        state.save()
    return state


def test_clients_find_the_cluster_by_its_notes_with_its_own_credential(noted, monkeypatch):
    assert known.State.load("default") == noted
    assert [(found.host, found.port) for found in known.find()] == [("127.0.0.1", 4000), ("10.0.0.1", 4000)]
    assert credential.OF_MASTERS[("127.0.0.1", 4000)] == noted.credential
    assert credential.credential_file() != noted.credential
    monkeypatch.setenv("CW_CLUSTER", "other")
    assert known.find() == []


def test_a_master_behind_a_tunnel_is_not_looked_for_from_another_machine(noted):
    noted.node = "elsewhere"
    assert [found.host for found in noted.candidates()] == ["10.0.0.1"]
    noted.hosts = ["127.0.0.1"]
    with pytest.raises(address.NotThere, match="can be reached from elsewhere only"):
        noted.candidates()


def test_notes_of_another_version_are_refused_with_what_to_do(noted):
    userdir.write_private("ssh-default/state.json", b'{"machines": {"lab1": {"colour": 1}}}')
    with pytest.raises(cw.LaunchError, match="move it away"):
        known.State.load("default")
    noted.forget()
    assert known.State.load("default").token == ""


def test_a_cluster_that_is_not_there_has_no_status_and_nothing_to_stop():
    assert cluster.status() is None and cluster.stop() == []
    assert not os.path.exists(known.State("default").directory)


# --- the working directory --------------------------------------------------------------------


def test_a_workers_directory_stands_for_a_clients_unless_the_client_has_chosen_one(tmp_path):
    code = f"""if True:
        import os
        from cw.payloads import environment
        os.environ["CW_WORKDIR"] = {str(tmp_path)!r}
        def entered(**given):
            environment.apply_environment(environment.load_environment(environment.dump_environment(**given)))
            return os.getcwd()
        assert entered() == {str(tmp_path)!r}
        assert entered(workdir="/usr") == "/usr"
        del os.environ["CW_WORKDIR"]
        assert entered() == "/usr"
    """
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


# --- real machines ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_lab_machines_from_the_start_to_the_end():
    """One refuses the key, has another Python, has no cw; jobs run on all; one is cut and comes back, one is reset;
    only ssh gets through; nothing is left anywhere."""
    if reason := lab.why_not():
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    script = Path(__file__).parent / "scripts" / "lab_machines.py"
    with tempfile.TemporaryDirectory(prefix="cw-lab-", dir="/tmp") as directory:  # sockets need a short path
        done = subprocess.run(
            [*lab.NAMESPACES, sys.executable, str(script), directory],
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"},
            capture_output=True, text=True, timeout=280,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("nothing is left anywhere")
