"""The exceptions a user may catch: their kinds, their texts, and that they travel."""

import builtins
import concurrent.futures
import copy
import inspect
import pickle
import traceback

import pytest

from cw import errors

EXAMPLES = [
    errors.Error("a"),
    errors.ConnectionError("no master at localhost:5494"),
    errors.ProtocolError("a"),
    errors.NotPicklable("a"),
    errors.PayloadError("a"),
    errors.DependencyFailed("a", "job 3"),
    errors.EnvironmentMismatch("a"),
    errors.InitializerFailed("a"),
    errors.JobTimeout("a"),
    errors.MemoryExceeded("a", 100, 120),
    errors.JobStopped("a"),
    errors.StartRefused("a"),
    errors.StoreError("a"),
    errors.Detached("a"),
    errors.DetachError("a"),
    errors.UnstableKey("a"),
    errors.SharedValueReleased("a"),
    errors.WorkerLost("a", [{"host": "n1", "how": "SIGSEGV"}]),
    errors.WorkerLost("a"),
    errors.RemoteException("a", "m.E", "Traceback ..."),
    errors.RemoteException("a"),
    errors.RemoteTraceback("Traceback ...", {"pid": 3}),
    errors.UnseenChanges("text"),
    errors.SharedRandomState("a"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_an_error_is_the_same_after_pickling(error, copied):
    error.extra = 1
    again = copied(error)
    assert type(again) is type(error)
    assert again.args == error.args
    assert str(again) == str(error)
    assert again.extra == 1


CLASSES = {
    c
    for name, c in vars(errors).items()
    if inspect.isclass(c) and c.__module__ == "cw.errors" and name[0] != "_"
}


def test_each_public_class_has_an_example_here_and_a_docstring():
    assert {type(example) for example in EXAMPLES} == CLASSES
    assert all(c.__doc__ for c in CLASSES)


def test_errors_are_what_callers_of_the_standard_library_expect():
    assert issubclass(errors.ConnectionError, builtins.ConnectionError)
    assert issubclass(errors.ConnectionError, OSError)
    assert issubclass(errors.InitializerFailed, concurrent.futures.BrokenExecutor)
    assert issubclass(errors.JobTimeout, TimeoutError)
    assert issubclass(errors.MemoryExceeded, MemoryError)
    assert issubclass(errors.NotPicklable, TypeError)
    assert issubclass(errors.NotPicklable, pickle.PicklingError)
    assert issubclass(errors.WorkerLost, concurrent.futures.BrokenExecutor)
    assert issubclass(errors.PayloadError, ValueError)
    warned = {errors.SharedRandomState, errors.UnseenChanges}
    assert all(issubclass(category, UserWarning) for category in warned)
    assert all(issubclass(c, errors.Error) for c in CLASSES - warned)


def test_a_class_that_is_made_when_it_is_needed_is_made_once(monkeypatch):
    monkeypatch.delitem(vars(errors), "NotPicklable")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = set(pool.map(getattr, [errors] * 100, ["NotPicklable"] * 100))
    assert made == {errors.NotPicklable}
    assert pickle.loads(pickle.dumps(errors.NotPicklable)) is errors.NotPicklable


def test_connection_error_says_what_it_was_given():
    assert str(errors.ConnectionError("no master at localhost:5494")) == "no master at localhost:5494"


def test_a_lost_worker_lists_each_attempt_on_its_own_line():
    error = errors.WorkerLost(
        "job 17 was lost 3 times",
        [
            {"host": "n3", "worker": 2, "slot": 0, "pid": 41, "how": "killed by SIGSEGV", "seconds": 0.25},
            {"host": "n4", "how": "exit status 1", "stderr": "reading\nout of memory\n\n"},
            {},
        ],
    )
    assert str(error).split("\n") == [
        "job 17 was lost 3 times",
        "  attempt 1: host n3, worker 2, slot 0, pid 41: killed by SIGSEGV after 0.25 s",
        "  attempt 2: host n4: exit status 1; its stderr ends with 'out of memory'",
        "  attempt 3: place unknown: lost",
    ]
    assert error.attempts[1]["host"] == "n4"


def test_a_lost_worker_with_long_stderr_stays_one_line_per_attempt():
    error = errors.WorkerLost("lost", [{"stderr": "x" * 10_000}])
    assert len(str(error)) < 400
    assert str(error).count("\n") == 1


def test_the_remote_traceback_is_printed_above_the_error():
    error = errors.RemoteException("m.E: it broke", "m.E", "text")
    error.__cause__ = errors.RemoteTraceback("job 3\nTraceback (most recent call last):\n  over there\n")
    printed = "".join(traceback.format_exception(type(error), error, None))
    assert '"""\njob 3\nTraceback (most recent call last):\n  over there\n"""' in printed
    assert "direct cause" in printed
    assert printed.rstrip().endswith("cw.errors.RemoteException: m.E: it broke")
    assert (error.type_name, error.traceback) == ("m.E", "text")
