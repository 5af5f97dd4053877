"""How long clients and workers look for a master: facts and times in, the end of the search out."""

import errno
import logging
import socket
from types import SimpleNamespace

import pytest
from conftest import events

import cw.client.session.patience
import cw.worker.policy.patience
from cw import credential, program
from cw.errors import ConnectionError
from cw.net import address
from cw.net import messages as m
from cw.net.master_link import SAYS_NOTHING, Loss

WHERE = ("node7", 5494)
REFUSED = [(WHERE, ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))]
UNKNOWN = [(WHERE, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))]
WRONG = [(WHERE, credential.WrongCredential("another credential"))]
CANDIDATES = [SimpleNamespace(source="as given")]


def client(connect=5.0, reconnect=300.0, is_needed=True):
    patience = cw.client.session.patience.Patience(connect, reconnect, lambda: is_needed)
    patience.start_clock(100.0)
    return patience


def lose(patience, now, reason="Connection reset by peer", goodbye=None, pause=0.05):
    return patience.on_lost(Loss("node7:5494", reason, goodbye), now, pause)


def not_found(patience, failures, now, pause=0.05):
    return patience.on_not_found(failures, CANDIDATES, now, pause)


# --- clients ----------------------------------------------------------------------------------


def test_a_client_tries_on_until_the_connect_timeout():
    patience = client(5.0)
    assert not_found(patience, REFUSED, 104.0) is None
    failure = not_found(patience, REFUSED, 104.96)
    assert isinstance(failure, ConnectionError)
    assert "(node7:5494: Connection refused)" in str(failure)


def test_the_error_names_the_source_of_an_address_that_the_program_has_not_given():
    found = [SimpleNamespace(source="from CW_MASTER")] * 2 + [SimpleNamespace(source=address.NOTHING_KNOWN)]
    failure = client(5.0).on_not_found(REFUSED, found, 105.0, 0.05)
    assert "(node7:5494: Connection refused; from CW_MASTER)" in str(failure)


def test_a_client_that_may_wait_long_for_the_first_master_says_so_once_and_that_it_is_there(caplog):
    patience = client(60.0)
    assert [not_found(patience, REFUSED, now) for now in (101.0, 102.9)] == [None] * 2 and not caplog.records
    assert [not_found(patience, REFUSED, now) for now in (103.0, 104.0, 155.0)] == [None] * 3
    assert events(caplog) == ["client.master_awaited"]
    assert (
        "no cw master answers (node7:5494: Connection refused)" in caplog.text and "for 57 s" in caplog.text
    )
    patience.on_welcome()
    assert events(caplog) == ["client.master_awaited", "client.master_found"]
    caplog.clear()
    assert not_found(client(5.0), REFUSED, 104.0) is None and not caplog.records  # its error comes as soon


def test_a_client_has_less_and_less_time_for_one_attempt():
    patience = client(5.0)
    assert [patience.dial_seconds(now) for now in (100.0, 103.0, 106.0)] == [5.0, 2.0, 0.1]
    assert [patience.answer_seconds(now) for now in (100.0, 103.0, 106.0)] == [5.0, 2.0, 0.1]


def test_a_first_connection_that_breaks_before_the_welcome_is_tried_again_in_time():
    assert lose(client(5.0), 101.0) is None
    assert "was lost: Connection reset by peer" in str(lose(client(5.0), 105.0))


def test_a_client_looks_for_a_lost_master_for_the_reconnect_timeout(caplog):
    patience = client(5.0, 300.0)
    patience.on_welcome()
    assert not patience.is_lost and lose(patience, 1000.0) is None and patience.is_lost
    assert events(caplog) == ["client.master_gone"] and "300 s" in caplog.text
    assert patience.dial_seconds(1000.0) == cw.client.session.patience.DIAL_SECONDS
    assert not_found(patience, UNKNOWN, 1299.0) is None
    assert not_found(patience, REFUSED, 1300.0) is not None
    patience.on_welcome()
    assert not patience.is_lost


def test_a_loss_of_the_next_connection_does_not_prolong_the_search():
    patience = client(5.0, 300.0)
    patience.on_welcome()
    lose(patience, 1000.0)
    assert lose(patience, 1200.0) is None
    assert not_found(patience, REFUSED, 1300.0) is not None


def test_a_client_without_jobs_does_not_look_for_a_lost_master():
    patience = client(is_needed=False)
    patience.on_welcome()
    assert isinstance(lose(patience, 1000.0), ConnectionError)


def test_a_master_that_ends_for_good_is_not_looked_for():
    patience = client()
    patience.on_welcome()
    assert lose(patience, 1000.0, "it restarts", m.Goodbye("it restarts", is_final=False)) is None
    assert "it ends" in str(lose(patience, 1001.0, "it ends", m.Goodbye("it ends")))


def test_a_goodbye_in_place_of_the_first_welcome_is_a_refusal():
    failure = lose(client(), 100.1, "the master ends", m.Goodbye("the master ends"))
    assert "refused this client: the master ends" in str(failure)


def test_a_silent_master_is_left_for_another_until_the_time_is_up():
    assert lose(client(), 103.0, SAYS_NOTHING) is None
    assert "accepts the connection but says nothing" in str(lose(client(), 105.0, SAYS_NOTHING))
    patience = client()
    patience.on_welcome()
    lose(patience, 1000.0)
    assert lose(patience, 1299.0, SAYS_NOTHING) is None
    assert lose(patience, 1300.0, SAYS_NOTHING) is not None


def test_a_mistake_of_the_user_ends_the_search_at_once(caplog):
    assert not_found(client(), UNKNOWN, 100.1) is not None
    bad = [(WHERE, credential.CredentialError("a mode that is too wide"))]
    assert str(not_found(client(), bad, 100.1)) == "a mode that is too wide"
    patience = client()
    assert not_found(patience, WRONG, 100.1) is None and not_found(patience, WRONG, 100.2) is None
    assert events(caplog) == ["client.credential_awaited"]


# --- workers ----------------------------------------------------------------------------------


@pytest.fixture
def forsaken():
    return []


@pytest.fixture
def worker(forsaken):
    return cw.worker.policy.patience.Patience(30.0, 300.0, lambda: forsaken.append(True))


def test_a_worker_waits_for_its_first_master_for_ever_and_says_so_now_and_then(worker, caplog):
    for now in range(1000, 1100):
        assert not_found(worker, REFUSED, float(now)) is None
    assert events(caplog) == ["worker.no_master"] * 4
    assert not worker.is_lost


def test_a_worker_gives_its_jobs_up_after_the_reconnect_timeout_and_waits_on(worker, forsaken, caplog):
    worker.on_welcome()
    assert lose(worker, 1000.0) is None and worker.is_lost
    assert not_found(worker, REFUSED, 1300.0) is None and not forsaken
    assert not_found(worker, REFUSED, 1300.1) is None and forsaken == [True]
    assert not worker.is_lost and "worker.jobs_given_up" in events(caplog)
    assert not_found(worker, REFUSED, 9000.0) is None and forsaken == [True]


def test_a_worker_with_a_time_without_a_master_ends_after_it(forsaken):
    worker = cw.worker.policy.patience.Patience(30.0, 300.0, lambda: forsaken.append(True), 60.0)
    assert not_found(worker, REFUSED, 1000.0) is None
    worker.on_welcome()
    lose(worker, 2000.0)
    assert not_found(worker, REFUSED, 2001.0) is None and not_found(worker, REFUSED, 2060.9) is None
    failure = not_found(worker, REFUSED, 2061.0)
    assert isinstance(failure, program.UserError) and "no master was found for 60 s" in str(failure)


def test_the_time_of_a_lost_master_counts_from_the_first_loss(worker, forsaken):
    worker.on_welcome()
    lose(worker, 1000.0)
    lose(worker, 1200.0)
    not_found(worker, REFUSED, 1301.0)
    assert forsaken


def test_a_worker_whose_master_ends_for_good_gives_its_jobs_up_at_once(worker, forsaken, caplog):
    caplog.set_level(logging.INFO)
    worker.on_welcome()
    assert lose(worker, 1000.0, "it is over", m.Goodbye("it is over")) is None
    assert forsaken and not worker.is_lost and events(caplog) == ["worker.master_ended"]


def test_a_worker_whose_master_restarts_keeps_its_jobs(worker, forsaken):
    worker.on_welcome()
    assert lose(worker, 1000.0, "it restarts", m.Goodbye("it restarts", is_final=False)) is None
    assert not forsaken and worker.is_lost


def test_an_unknown_host_is_a_mistake_only_at_first(worker):
    failure = not_found(worker, UNKNOWN, 1000.0)
    assert isinstance(failure, program.UserError) and "'node7' is unknown: check its name" in str(failure)
    assert not_found(worker, REFUSED, 1000.0) is None
    assert not_found(worker, UNKNOWN, 1001.0) is None


def test_another_credential_is_a_mistake_after_some_seconds(worker):
    assert not_found(worker, REFUSED, 1000.0) is None
    assert not_found(worker, WRONG, 1000.0 + cw.worker.policy.patience.WRONG_SECONDS - 0.1) is None
    failure = not_found(worker, WRONG, 1000.0 + cw.worker.policy.patience.WRONG_SECONDS)
    assert isinstance(failure, program.UserError) and str(failure) == "another credential"


def test_another_credential_where_nobody_named_the_master_is_anothers_master(worker):
    somewhere = [SimpleNamespace(source=address.NOTHING_KNOWN)]
    for now in (1000.0, 2000.0):
        assert worker.on_not_found(WRONG, somewhere, now, 1.0) is None


def test_a_credential_that_has_worked_is_waited_for(worker):
    worker.on_welcome()
    lose(worker, 1000.0)
    assert not_found(worker, WRONG, 1100.0) is None
