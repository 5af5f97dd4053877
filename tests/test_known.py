"""Whether a client without a host makes a cluster of its own."""

import itertools
import json
import os
import socket
import time

import pytest
from programs import Program, free_port

import cw
from cw import userdir
from cw.launch import batch_signs, known
from cw.launch.known import Decision, Facts, decide
from cw.net import address


@pytest.fixture
def laptop(monkeypatch, tmp_path):
    """No sign of a batch system, and no cluster. (Other tests may have a master at the usual port.)"""
    monkeypatch.setattr(address, "PORT", free_port())
    for variable in [name for name in os.environ if name.startswith(batch_signs.PREFIXES)]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(batch_signs, "DIRECTORIES", (str(tmp_path / "etc" / "slurm"),))


# --- the decision -----------------------------------------------------------------------------


def test_a_cluster_is_made_only_where_nothing_is_known_and_no_batch_system_shows():
    for facts in itertools.starmap(
        Facts, itertools.product((False, True), (False, True), (False, True), ("", "x"))
    ):
        is_known = facts.is_named or facts.is_noted or facts.answers
        expected = Decision.USE if is_known else Decision.REFUSE if facts.batch_sign else Decision.MAKE
        assert decide(facts) is expected


# --- the facts --------------------------------------------------------------------------------


def test_nothing_is_known_on_a_laptop(laptop):
    assert known.collect() == Facts()


@pytest.mark.parametrize("variable", ["CW_MASTER", "CW_CLUSTER", "CW_MASTER_OF_WORKER", "CW_CLUSTER_DEPTH"])
def test_the_environment_names_a_cluster(variable, laptop, monkeypatch):
    monkeypatch.setenv(variable, "1")
    assert known.collect() == Facts(is_named=True)


def test_a_cluster_that_this_program_has_started_is_known(laptop):
    address.bind_process("127.0.0.1:1")
    try:
        assert known.collect().is_named
    finally:
        address.unbind_process("127.0.0.1:1")
    assert not known.collect().is_named


def test_an_address_file_and_notes_of_a_batch_system_are_known(laptop):
    start_id = address.write_address("127.0.0.1", 1)
    assert known.collect() == Facts(is_noted=True)
    address.remove_address(start_id)
    assert known.collect() == Facts()
    os.mkdir(os.path.join(userdir.home_directory(), "slurm-default"))
    userdir.write_private("slurm-default/state.json", b"{}")
    assert known.collect() == Facts(is_noted=True)


def test_the_cluster_of_start_is_known_until_its_master_has_ended(laptop):
    with cw.mp.start(1, workers=False):
        address.unbind_process(cw.mp.status().master)
        assert known.collect() == Facts(is_noted=True)
        name = f"mp-{os.uname().nodename}/state.json"
        noted = json.loads(userdir.read_private(name))
        noted["processes"]["master"][1] += 1  # another process has its number now
        userdir.write_private(name, json.dumps(noted).encode())
        assert known.collect() == Facts()
        noted["processes"]["master"][1] -= 1
        userdir.write_private(name, json.dumps(noted).encode())


def test_a_sign_of_a_batch_system_is_a_fact(laptop, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", "x")
    assert known.collect() == Facts(batch_sign="SLURM_CONF is set")


def test_a_master_of_this_user_at_the_usual_port_is_known(laptop):
    with Program("-m", "cw.master", "--port", str(address.PORT), "--no-address-file") as master:
        master.wait_for_event("master.listening")
        assert known.collect() == Facts(answers=True)


@pytest.mark.parametrize("speaks", [False, True])
def test_what_others_have_at_the_usual_port_is_passed_over_at_once(speaks, laptop, monkeypatch, tmp_path):
    if speaks:  # another credential: another user's master
        holder = Program("-m", "cw.master", "--port", str(address.PORT), "--no-address-file",
                         CW_CREDENTIAL=str(tmp_path / "other.pem"))  # fmt: skip
        holder.wait_for_event("master.listening")
    else:
        holder = socket.create_server(("127.0.0.1", address.PORT))
    with holder:
        cw.credential.load_or_make()
        began = time.monotonic()
        assert known.collect() == Facts()
        assert known.ANSWER_SECONDS < 0.3 and time.monotonic() - began < 3
