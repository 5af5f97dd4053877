"""The way of jobs into a session: what an interrupt, a stop or a fault in the middle of it leaves behind."""

import threading

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT

import cw


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with cw.mp.allocate(1) as cluster:
        yield cluster


@pytest.mark.parametrize("where", ["before it is sent", "when it counts as sent", "while it is written"])
def test_ctrl_c_in_the_middle_of_a_submit_costs_no_other_job(where, monkeypatch):
    with cw.ClusterExecutor() as executor:
        session = executor._session
        owner, name = {
            "before it is sent": (session.exchange, "pump"),
            "when it counts as sent": (session.jobs, "next_batch"),
            "while it is written": (session._loop, "flush"),
        }[where]
        real, main = getattr(owner, name), threading.current_thread()

        def interrupted():
            value = real()
            if threading.current_thread() is main:
                monkeypatch.setattr(owner, name, real)
                raise KeyboardInterrupt
            return value

        executor.submit(jobs.square, 1).result(LIMIT)
        monkeypatch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            while True:  # the loop may be busy: then its own thread sends
                executor.submit(jobs.square, 2).result(LIMIT)
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9
        assert list(executor.map(jobs.square, range(10))) == [n * n for n in range(10)]
        assert session.wait(LIMIT)


def test_a_recorded_call_is_withdrawn_by_ctrl_c_in_the_middle_of_its_submit(tmp_path, monkeypatch):
    with cw.ClusterExecutor(store=tmp_path / "s") as executor:
        delivery = executor._session.delivery
        real = delivery.add

        def interrupted(number, call):
            real(number, call)
            monkeypatch.setattr(delivery, "add", real)
            raise KeyboardInterrupt

        executor.submit(jobs.square, 1).result(LIMIT)
        monkeypatch.setattr(delivery, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.submit(jobs.square, 2)
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9
    assert [result.args for result in cw.results(tmp_path / "s")] == [(1,), (3,)]


def test_a_submit_after_the_stop_says_so():
    executor = cw.ClusterExecutor()
    session = executor._session
    executor.shutdown()
    for args in ((2,), ([object],)):  # plain, and not
        with pytest.raises(RuntimeError, match="this client has been stopped"):
            session.submitter.submit(jobs.square, args, {}, None)
    assert not session.outstanding()


def squares(executor, count):
    """Submit so many jobs together."""
    futures, numbers = [], iter(range(count))

    def step():
        for n in numbers:
            futures.append(executor.submit(jobs.square, n))
            return True
        return False

    while executor._session.submitter.send_together(step):
        pass
    return futures


def test_jobs_that_are_sent_together_take_fewer_messages(monkeypatch):
    with cw.ClusterExecutor() as executor:
        session, sizes = executor._session, []
        executor.submit(jobs.square, 1).result(LIMIT)
        wait_until(lambda: not session.submitter.is_woken)
        real = session.exchange._submit
        monkeypatch.setattr(
            session.exchange,
            "_submit",
            lambda connection, batch: (sizes.append(len(batch)), real(connection, batch)),
        )
        monkeypatch.setattr("cw.client.session.submitter.HELD_SECONDS", LIMIT)  # (the machine may be busy)
        futures = squares(executor, 5)
        assert [future.result(LIMIT) for future in futures] == [0, 1, 4, 9, 16]
        assert sizes == [5]


def test_jobs_that_are_kept_back_are_sent_when_a_submit_waits_for_room(monkeypatch):
    monkeypatch.setattr("cw.client.session.submitter.HELD_SECONDS", LIMIT)
    with cw.ClusterExecutor(max_outstanding=(2, None)) as executor:
        assert [future.result(LIMIT) for future in squares(executor, 5)] == [0, 1, 4, 9, 16]


def test_what_cannot_be_pickled_leaves_no_job():
    with cw.ClusterExecutor() as executor:
        with pytest.raises(cw.NotPicklable):
            executor.submit(jobs.square, threading.Lock())
        assert not executor._session.outstanding()
