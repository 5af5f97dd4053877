"""Errors as IPython shows them. (In a real kernel: test_notebook.py.) Here, what IPython calls is Python's own."""

import sys
import traceback
import types

import jobs
import pytest
from programs import ROOT

import cw
from cw.client.futures import tracebacks


@pytest.fixture
def show(monkeypatch):
    """What the shell of this IPython shows of an error."""
    formatter = types.SimpleNamespace(
        structured_traceback=lambda *args, **more: traceback.format_exception(*args[:3])
    )
    shell = types.SimpleNamespace(InteractiveTB=formatter, execution_count=1)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    tracebacks.install()
    first = formatter.structured_traceback
    tracebacks.install()
    assert formatter.structured_traceback is first
    return lambda error: formatter.structured_traceback(type(error), error, error.__traceback__, tb_offset=0)


def test_the_jobs_frames_come_after_the_users_and_none_of_cw(show, cluster):
    with cw.ClusterExecutor() as executor, pytest.raises(ZeroDivisionError) as caught:
        list(executor.map(jobs.divide, [1], [0]))
    error = caught.value
    before = error.__cause__, error.__traceback__
    *_, frame, remote, last = show(error)
    assert (
        "list(executor.map(jobs.divide, [1], [0]))" in frame
        and last == "ZeroDivisionError: division by zero\n"
    )
    assert remote.startswith("job 1 (host") and "in divide\n    return " in remote and "Zero" not in remote
    assert (error.__cause__, error.__traceback__) == before and isinstance(
        error.__cause__, cw.RemoteTraceback
    )


def test_causes_of_cws_own_errors_are_without_its_frames(show, cluster):
    with cw.ClusterExecutor() as executor, pytest.raises(cw.NotPicklable) as caught:
        executor.submit(jobs.square, (n for n in range(3)))
    shown = "".join(show(caught.value))
    assert "executor.submit(jobs.square" in shown and "TypeError: cannot pickle 'generator' object" in shown
    assert f"{ROOT}/cw/" not in shown and "cloudpickle.py" not in shown
    assert caught.value.__cause__.__traceback__ is not None


def test_an_interrupt_shows_where_the_user_waits(show, cluster):
    def interrupted():
        yield 1
        raise KeyboardInterrupt

    with cw.ClusterExecutor() as executor, pytest.raises(KeyboardInterrupt) as caught:
        list(executor.map(jobs.square, interrupted()))
    shown = "".join(show(caught.value))
    assert (
        "list(executor.map(jobs.square, interrupted()))" in shown
        and "yield" not in shown
        and f"{ROOT}/cw/" not in shown
    )


def test_other_errors_are_left_alone(show):
    with pytest.raises(ZeroDivisionError) as caught:
        jobs.divide(1, 0)
    error = caught.value
    assert show(error) == traceback.format_exception(type(error), error, error.__traceback__)
