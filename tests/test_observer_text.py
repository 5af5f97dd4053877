"""A snapshot as text: what it says, and that it stays within its width."""

from dataclasses import replace

import pytest

from cw.observer.text import lines, seconds, size
from tests.snapshots import sample, shaped


def test_it_says_what_waits_runs_and_failed():
    found = "\n".join(" ".join(line.split()) for line in lines(sample()))
    for text in (
        "simulate 1,000 7 2,000 3 3 2.2 s 4.5 s 6 min",
        "sim.py on login1, pid 4711 waits: all 12 slots are busy",
        "node7:200 4 of 4 900 3.9 1.0 GiB drains",
        "node7:200 lost a runner: SIGKILL 90 s ago",
        "simulate #17 node7 13 min",
        "simulate #16 on node7, 30 s ago\nValueError: no convergence\nafter 100 steps",
        "node9:100, 17 min ago: silent for 30 s",
    ):
        assert text in found, found


def test_what_has_ended_has_no_time_left():
    shown = sample()
    ended = replace(shown.functions[0], waiting=0, running=0, seconds_left=0.0)
    (line,) = [line for line in lines(replace(shown, functions=(ended,))) if line.startswith("simulate ")][:1]
    assert line.endswith("4.5 s")


def test_with_very_many_workers_it_shows_hosts():
    found = "\n".join(" ".join(line.split()) for line in lines(replace(sample(), workers=())))
    assert "node7 2 8 of 8 1,900 3.9 3.0 GiB" in found and "node7:100" not in found


def test_where_jobs_need_more_than_one_cpu_it_shows_what_they_need_and_take():
    found = "\n".join(" ".join(line.split()) for line in lines(shaped()))
    for text in (
        "needs waiting running median\n1 CPU 1,000 7 2.2 s\n8 CPUs, 0.5 GPU or 16 CPUs 170 1",
        "worker busy cpus gpus asked done memory left",
        "node7:100 4 of 4 10/16 1.5/2 8GB/64GB 1,000 2.0 GiB",
        "node7:200 4 of 4 4/4 900 1.0 GiB drains",
    ):
        assert text in found, found
    found = "\n".join(" ".join(line.split()) for line in lines(replace(shaped(), workers=()), 120))
    assert "node7 2 8 of 8 10/16 1.5/2 8GB/64GB 1,900 3.9 3.0 GiB" in found
    assert not {"cpus", "gpus", "asked", "needs"} & set(" ".join(lines(sample())).split())


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(width):
    shown = sample()
    function = replace(shown.functions[0], name="f" * 200, waiting=10**7, done=10**7, seconds_left=10**6)
    client = replace(shown.clients[0], why_waiting="word " * 40)
    worker = replace(shown.workers[0], name="w" * 200, done=10**9)
    failure = replace(shown.failures[0], first="e" * 200)
    crowded = replace(
        shown, functions=(function,) * 30, clients=(client,), workers=(worker,) * 30, failures=(failure,)
    )
    found = list(lines(crowded, width))
    assert max(map(len, found)) <= width
    assert found.count("... and 20 more") == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0, "0 s"), (0.045, "45 ms"), (2.34, "2.3 s"), (75, "75 s"), (300, "5 min"), (7500, "2 h 05 min"),
     (300_000, "3 d")],
)  # fmt: skip
def test_times_are_for_people(value, text):
    assert seconds(value) == text


def test_sizes_are_for_people():
    assert (size(None), size(512 * 2**20), size(3 * 2**30)) == ("", "512 MiB", "3.0 GiB")
