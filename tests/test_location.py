"""Where a process runs: a value that travels as text."""

import pytest

from cw import location
from cw.location import Location


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Location("slurm", "hpc", "12", "0", "n1"), "slurm/hpc/12/0/n1"),
        (Location("slurm", "", "12"), "slurm//12"),
        (Location("local", "a1b2c3"), "local/a1b2c3"),
        (Location(), ""),
    ],
)
def test_it_comes_back_from_its_text(value, text):
    assert value.as_text() == text
    assert Location.parse(text) == value


@pytest.mark.parametrize("text", ["/a", "slurm/a/b/c/d/e", "//", "/"])
def test_a_text_that_is_none_is_nowhere(text):
    assert Location.parse(text) == Location()


def test_it_says_in_words_where_that_is():
    assert str(Location("slurm", "hpc", "12", "0", "n1")) == "Slurm job 12, step 0, node n1"
    assert str(Location("slurm", "hpc", "12")) == "Slurm job 12"
    assert str(Location("pbs", "", "12", "", "n1")) == "pbs job 12, node n1"
    assert str(Location()) == ""


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("Slurm job 12, step 0, node n1", Location("slurm", "", "12", "0", "n1")),
        ("Slurm job 12", Location("slurm", "", "12")),
        ("cluster a1b2c3", Location("local", "a1b2c3")),
    ],
)
def test_what_jobs_of_older_versions_say_in_words_is_understood(words, value, monkeypatch):
    monkeypatch.delenv(location.VARIABLE, raising=False)
    monkeypatch.setenv("CW_PLACE", words)
    assert location.of_this_process() == value


def test_a_process_knows_its_own_from_its_environment(monkeypatch):
    monkeypatch.delenv("CW_PLACE", raising=False)
    monkeypatch.delenv(location.VARIABLE, raising=False)
    assert location.of_this_process() == Location()
    monkeypatch.setenv(location.VARIABLE, "slurm/hpc/12/0/n1")
    monkeypatch.setenv("CW_PLACE", "Slurm job 1")
    assert location.of_this_process().job == "12"
