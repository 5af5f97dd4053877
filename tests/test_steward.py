"""The steward gives a run back when it is told to end, and lets it end when that is asked."""

import signal

import pytest
from conftest import wait_until
from programs import LIMIT
from test_handing_over import Run, log_of, marks

from cw.runs import lease
from cw.runs.folder import CANCELLED, STEWARD


@pytest.mark.slow
def test_a_run_goes_from_steward_to_steward_and_is_cancelled(tmp_path):
    (tmp_path / "hold").touch()
    with Run(tmp_path) as run:

        def is_held():
            run.look_after()
            return (
                run.folder.exists()
                and run.folder.state()[:1] == (STEWARD,)
                and run.folder.state().running == 2
            )

        wait_until(is_held, LIMIT, lambda: log_of(run))
        state = run.folder.state()
        assert (state.calls, state.done + state.waiting) == (state.done + 2 + state.waiting, state.calls - 2)
        before = marks(tmp_path)
        assert sorted(before.values()) == ["("] * 2 + ["()"] * 6
        # It is told to end: it leaves without a goodbye, and nothing that runs is stopped.
        pid = state.pid
        run.kill(pid, signal.SIGTERM)
        wait_until(lambda: not lease.is_held(run.folder), LIMIT)
        assert run.folder.state().phase == STEWARD and lease.holder(run.folder) == ""
        wait_until(lambda: is_held() and run.folder.state().pid != pid, LIMIT, lambda: log_of(run))
        assert marks(tmp_path) == before
        # Somebody cancels it.
        run.folder.request("cancel")
        wait_until(lambda: run.folder.state().is_over, LIMIT, lambda: log_of(run))
        assert run.folder.state().phase == CANCELLED
        (tmp_path / "hold").unlink()
        wait_until(lambda: not lease.is_held(run.folder), LIMIT)
        run.master.wait_for_event("master.peer_left")
        assert marks(tmp_path) == before, "no other call has begun, and those that ran were stopped"
