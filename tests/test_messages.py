"""The table of messages holds together, and the roles keep to it. No socket."""

import pytest

from cw.master import peers
from cw.net import messages as m
from cw.net.schema import SPECS, Leg

CLASSES = {cls for cls in vars(m).values() if isinstance(cls, type) and hasattr(cls, "_fields")}


def test_each_message_is_declared_and_has_a_kind_of_its_own():
    assert set(SPECS) == CLASSES
    kinds = [spec.kind for spec in SPECS.values()]
    assert len(set(kinds)) == len(kinds)
    assert all(0 < kind < 255 for kind in kinds)  # 255 is that of a piece of a payload


def test_each_message_is_sent_by_somebody_and_says_what_it_means():
    for cls, spec in SPECS.items():
        assert spec.legs, cls
        assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("), cls


def test_only_the_handshake_is_accepted_in_no_other_place():
    later = frozenset().union(*map(m.sent_on, Leg))
    assert set(SPECS) - later == {m.Hello, m.Welcome, m.Refused}


@pytest.mark.parametrize("name", ["FROM_CLIENT", "FROM_WORKER", "FROM_OBSERVER"])
def test_the_master_accepts_what_each_role_may_send(name):
    role = name.removeprefix("FROM_")
    assert getattr(peers, name) == m.sent_on(Leg[f"{role}_MASTER"]) > set()
