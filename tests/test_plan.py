"""What a user asked for in a batch system: whose each option is, and what makes no sense."""

import subprocess
import sys

import pytest

from cw.launch.launcher import LaunchError
from cw.launch.plan import PROGRAM_OPTIONS, Plan, load_plan, split_options


def test_options_of_cws_programs_are_told_from_the_batch_systems():
    given = ["--account=physics", "--max-jobs", "5", "--qos", "long", "--grace=3", "-v"]
    assert split_options("worker", given) == (
        ["--account=physics", "--qos", "long", "-v"], ["--max-jobs", "5", "--grace=3"]
    )  # fmt: skip
    assert split_options("worker", ["--enforce-memory", "--exclusive"]) == (
        ["--exclusive"],
        ["--enforce-memory"],
    )
    assert split_options("master", ["--port=0", "--max-jobs=1"]) == (["--max-jobs=1"], ["--port=0"])


@pytest.mark.parametrize("given", [["--port"], ["--port="], ["--qos", "long", "--port"], ["--port", ""]])
def test_an_option_without_its_value_is_refused(given):
    with pytest.raises(LaunchError, match="the master's option --port lacks its value: give --port=VALUE"):
        split_options("master", given)


@pytest.mark.parametrize("role", ["master", "worker"])
def test_cws_programs_have_these_options(role):
    text = subprocess.check_output([sys.executable, "-m", f"cw.{role}", "--help"], text=True)
    assert all(f"  {option} " in text for option in PROGRAM_OPTIONS[role])


@pytest.mark.parametrize(
    ("options", "port"),
    [
        ([], None),
        (["--qos=long"], None),
        (["--port", "5500"], 5500),
        (["--port=0"], 0),
        (["--port=1", "--port=2"], 2),
    ],
)
def test_the_masters_port_is_known_from_its_options(options, port):
    assert Plan("x", 1, master_options=options).port() == port


def test_what_makes_no_sense_is_refused():
    Plan("x", 1).check()
    for changes in (
        {"docker_image": "a", "apptainer_image": "b"},
        {"docker_args": ["-v"]},
        {"name": "a/b"},
        {"master_options": ["--port", "65536"]},
        {"master_options": ["--port=http"]},
    ):
        with pytest.raises(ValueError):
            Plan("x", 1)._replace(**changes).check()


def test_options_for_both_jobs_come_before_those_of_one():
    plan = Plan(
        "x", 1, master_options=["--qos=a", "--port=0"], worker_options=["--mem=1G"], batch_options=["--qos=b"]
    )
    assert plan.system_options("master") == ["--qos=b", "--qos=a"] and plan.port() == 0
    assert plan.system_options("worker") == ["--qos=b", "--mem=1G"]
    for option in ("--port=1", "--grace", "--silence=9"):
        with pytest.raises(
            ValueError, match=f"{option} is an option of cw's own programs.*--Xmaster or --Xworkers"
        ):
            plan._replace(batch_options=[option]).check()


def test_a_plan_comes_back_from_what_was_noted_of_it_also_by_older_versions():
    plan = Plan("x", 3, worker_options=["--qos=long"], foreign_master="h:1")
    assert load_plan(plan._asdict()) == plan
    assert load_plan({"name": "x", "slots": 3}) == Plan("x", 3)
