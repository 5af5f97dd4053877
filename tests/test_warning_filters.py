"""Filters of the client's warnings, in force in jobs."""

import json
import os
import re
import subprocess
import sys
import types
import warnings

import pytest

from cw.payloads import log_settings, warning_filters
from cw.payloads.warning_filters import Watch, apply, category_of, name_of, take


@pytest.fixture
def filters(monkeypatch):
    """The filters, which are as they were again at the end."""
    monkeypatch.setattr(warning_filters, "_original", None)
    with warnings.catch_warnings():
        yield


def shown(*calls):
    with warnings.catch_warnings(record=True) as seen:
        for text, category in calls:
            warnings.warn_explicit(text, category, "f.py", 1, "sim")
    return [str(each.message) for each in seen]


def test_pythons_own_filters_do_not_travel():
    code = "import warnings; from cw.payloads.warning_filters import take; print(take())"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout == "None\n"


def test_filters_come_through_json_as_they_are(filters):
    warnings.resetwarnings()
    warnings.filterwarnings("error", "too (hot|cold)", UserWarning, r"sim\b", 7)
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.filters.append(("default", None, DeprecationWarning, "__main__", 0))
    found = json.loads(json.dumps(take()))
    warnings.resetwarnings()
    apply(found)
    assert warnings.filters == [
        ("ignore", None, DeprecationWarning, None, 0),
        ("error", re.compile("too (hot|cold)", re.I), UserWarning, re.compile(r"sim\b"), 7),
        ("default", None, DeprecationWarning, re.compile(r"__main__\Z"), 0),
    ]


def test_an_error_at_home_is_one_in_the_job(filters):
    warnings.simplefilter("always")
    apply([["error", "hot", "builtins:UserWarning", None, 0]])
    with pytest.raises(UserWarning, match="hot"):
        warnings.warn("hot", stacklevel=1)


def test_what_a_job_has_added_stays_in_front_and_the_clients_are_exchanged(filters):
    warnings.resetwarnings()
    apply([["ignore", None, "builtins:Warning", None, 0]])
    warnings.filterwarnings("always", "mine")
    assert shown(("mine", UserWarning), ("other", UserWarning)) == ["mine"]
    apply([["always", None, "builtins:Warning", None, 0]])
    assert shown(("mine", UserWarning), ("other", UserWarning)) == ["mine", "other"]
    warnings.simplefilter("ignore")
    apply(None)
    assert shown(("mine", UserWarning)) == []


def test_a_category_that_is_not_loaded_here_is_left_out(filters):
    assert category_of(name_of(UserWarning)) is UserWarning
    assert category_of("no.such.module:Worse") is None and category_of("os:path") is None
    apply(
        [["ignore", None, "no.such.module:Worse", None, 0], ["odd action", None, "builtins:Warning", None, 0]]
    )
    assert warnings.filters == []


def test_a_category_counts_as_soon_as_its_module_is_loaded(filters, monkeypatch):
    apply([["ignore", None, "late:Late", None, 0]])
    late = types.ModuleType("late")
    late.Late = type("Late", (UserWarning,), {"__module__": "late"})
    warning_filters.apply_rest()
    assert warnings.filters == []
    monkeypatch.setitem(sys.modules, "late", late)
    warning_filters.apply_rest()
    assert warnings.filters == [("ignore", None, late.Late, None, 0)]


def test_a_change_is_seen_at_the_next_look(filters):
    watch = Watch()
    watch.look()
    assert not watch.look()
    warnings.simplefilter("ignore", ResourceWarning)
    assert watch.look() and not watch.look()


def test_a_client_whose_jobs_keep_their_records_sends_only_that():
    watch = log_settings.Watch(is_forwarding=False)
    assert watch.look() and not watch.look()
    assert watch.taken == {"is_forwarding": False}
