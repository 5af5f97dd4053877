"""The last output of a job in its error."""

import dataclasses
import traceback

from cw.errors import JobTimeout, RemoteTraceback
from cw.output import last_words


def test_it_comes_before_the_remote_traceback():
    error = ValueError("no")
    error.__cause__ = RemoteTraceback("job 1 (host a)\nTraceback...\nValueError: no\n", {"host": "a"})
    last_words.add_to(error, "step 1\nstep 2\n", "hot")
    assert error.__cause__.args[0] == (
        "its last output (stdout):\n  step 1\n  step 2\nits last output (stderr):\n  hot\n"
        "job 1 (host a)\nTraceback...\nValueError: no\n"
    )
    assert error.__cause__.where == {"host": "a"}


def test_an_error_without_a_traceback_gets_it_as_its_cause():
    error = JobTimeout("job 1 ran longer than its limit")
    last_words.add_to(error, "step 1\n", "")
    shown = "".join(traceback.format_exception(error))
    assert '"""\nits last output (stdout):\n  step 1\n"""' in shown and shown.index("step 1") < shown.index(
        "limit"
    )


def test_without_output_the_error_stays_as_it_is():
    error = JobTimeout("job 1 ran longer than its limit")
    last_words.add_to(error, "", "")
    assert error.__cause__ is None


def test_exceptions_that_forbid_assignment_get_it_too():
    @dataclasses.dataclass(frozen=True)
    class Frozen(Exception):
        place: int

    error = Frozen(3)
    last_words.add_to(error, "step", "")
    assert "step" in str(error.__cause__)
