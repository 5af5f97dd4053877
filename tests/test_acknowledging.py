"""Results are acknowledged in parts; those that are recorded, if that is asked for, only when they are stored."""

from cw.client.session.acknowledging import ACKNOWLEDGED_SECONDS, Acknowledger
from cw.client.session.jobs import Jobs
from cw.client.session.receipts import ACKNOWLEDGED_JOBS


class Bench:
    """A loop and a link that only note what is asked of them."""

    is_joined = True

    def __init__(self, waits_for_store):
        self.sent, self.later = [], []
        self.acknowledger = Acknowledger(self, self, Jobs())
        self.acknowledger.waits_for_store = waits_for_store

    def call_later(self, seconds, function):
        assert seconds == ACKNOWLEDGED_SECONDS
        self.later.append(function)

    def send(self, message):
        self.sent.append(message.counts)

    def wait(self):
        later, self.later = self.later, []
        for function in later:
            function()
        return self.sent[-1] if self.sent else None


def test_few_results_are_acknowledged_together_and_many_at_once():
    bench = Bench(waits_for_store=False)
    bench.acknowledger.note(2, is_recorded=True)
    bench.acknowledger.note(3, is_recorded=False)
    assert not bench.sent and len(bench.later) == 1 and bench.wait() == [5]
    bench.acknowledger.note(ACKNOWLEDGED_JOBS, is_recorded=False)
    assert bench.sent == [[5], [5 + ACKNOWLEDGED_JOBS]]


def test_what_is_recorded_is_acknowledged_when_it_is_stored_and_what_came_after_it_too():
    bench = Bench(waits_for_store=True)
    acknowledger = bench.acknowledger
    acknowledger.note(4, is_recorded=False)
    assert bench.wait() == [4]
    acknowledger.note(2, is_recorded=True)
    acknowledger.note(1, is_recorded=False)  # counted with what came before it
    acknowledger.note(5, is_recorded=True)
    assert bench.wait() == [4]
    acknowledger.on_stored()
    assert bench.wait() == [7]
    acknowledger.on_stored()
    assert bench.wait() == [12]
    acknowledger.on_stored()
    assert not bench.later


def test_results_of_a_lost_connection_are_not_counted_on_the_next():
    bench = Bench(waits_for_store=True)
    bench.acknowledger.note(2, is_recorded=True)
    bench.acknowledger.on_lost()
    bench.acknowledger.note(3, is_recorded=True)
    bench.acknowledger.on_stored()
    assert bench.wait() is None
    bench.acknowledger.on_stored()
    assert bench.wait() == [3]


def test_nothing_is_acknowledged_while_another_process_takes_over():
    bench = Bench(waits_for_store=False)
    bench.acknowledger.note(2, is_recorded=False)
    bench.acknowledger.is_frozen = True
    assert bench.wait() is None
    bench.acknowledger.note(ACKNOWLEDGED_JOBS, is_recorded=False)
    assert not bench.sent
