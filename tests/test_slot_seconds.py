"""Use of slots in a line of a log."""

import pytest

from cw.slot_seconds import Used, as_line, parse


@pytest.mark.parametrize("used", [Used(0.0, 0.0, 0.0), Used(394.1, 633.0, 180.5), Used(1e9, 2e9, 0.1)])
def test_what_is_logged_is_read_again(used):
    log = f"a line\n2026-11-29 04:55:41,894 cw.worker INFO: {as_line(used)}\nanother\n"
    assert parse(log + log) == [used, used]
    assert parse("nothing of the kind") == []
