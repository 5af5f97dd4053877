"""The table of messages holds together, and the roles keep to it. No socket."""

import pytest

from cw.master.client_peer import ClientPeer
from cw.master.observers.observer import ObserverPeer
from cw.master.worker_peer import WorkerPeer
from cw.net import messages as m
from cw.net import wire
from cw.net.schema import SPECS, Leg

CLASSES = {cls for cls in vars(m).values() if isinstance(cls, type) and hasattr(cls, "_fields")}


def test_each_message_is_declared():
    assert set(SPECS) == CLASSES


def test_a_kind_is_one_message_on_each_leg():
    for leg in Leg:
        kinds = [spec.kind for spec in SPECS.values() if leg in spec.legs]
        assert len(set(kinds)) == len(kinds), leg
    assert all(0 < spec.kind < wire.PIECE_KIND for spec in SPECS.values())


def test_each_message_is_sent_by_somebody_and_says_what_it_means():
    for cls, spec in SPECS.items():
        assert spec.legs, cls
        assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("), cls


def test_only_the_handshake_is_accepted_in_no_other_place():
    later = frozenset().union(*map(m.sent_on, Leg))
    assert set(SPECS) - later == {m.Hello, m.Welcome, m.Refused}


@pytest.mark.parametrize(
    "peer, leg",
    [(ClientPeer, Leg.CLIENT_MASTER), (WorkerPeer, Leg.WORKER_MASTER), (ObserverPeer, Leg.OBSERVER_MASTER)],
)
def test_the_master_handles_what_each_role_may_send(peer, leg):
    assert peer.handlers.keys() == m.sent_on(leg) > set()
