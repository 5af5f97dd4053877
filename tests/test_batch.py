"""The batch scripts: what sbatch is asked for, and what the shell makes of what is in them."""

import shlex
import subprocess
import sys

import pytest

from cw.launch.launcher import LaunchError
from cw.slurm import batch
from cw.slurm.batch import Plan


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("5", 300), ("1:30", 90), ("2:00:00", 7200), ("1-0", 86400), ("1-12:30", 131400), ("0-0:0:5", 5),
     ("UNLIMITED", None), ("", None)],
)  # fmt: skip
def test_time_limits_are_read_as_sbatch_reads_them(limit, seconds):
    assert batch.seconds_of(limit) == seconds


def test_options_of_cws_programs_are_told_from_sbatchs():
    given = ["--account=physics", "--max-jobs", "5", "--qos", "long", "--grace=3", "-v"]
    assert batch.split_options("worker", given) == (
        ["--account=physics", "--qos", "long", "-v"], ["--max-jobs", "5", "--grace=3"]
    )  # fmt: skip
    assert batch.split_options("master", ["--port=0", "--max-jobs=1"]) == (["--max-jobs=1"], ["--port=0"])


@pytest.mark.parametrize("given", [["--port"], ["--port="], ["--qos", "long", "--port"], ["--port", ""]])
def test_an_option_without_its_value_is_refused(given):
    with pytest.raises(LaunchError, match="the master's option --port lacks its value: give --port=VALUE"):
        batch.split_options("master", given)


@pytest.mark.parametrize("role", ["master", "worker"])
def test_cws_programs_have_these_options(role):
    text = subprocess.check_output([sys.executable, "-m", f"cw.{role}", "--help"], text=True)
    assert all(f"  {option} " in text for option in batch.PROGRAM_OPTIONS[role])


@pytest.mark.parametrize(
    ("tasks", "slots"),
    [("1", "1 "), ("2(x3)", "2 2 2 "), ("2(x2),1", "2 2 1 "), ("1,3", "1 3 "), ("10(x1),7(x2)", "10 7 7 ")],
)
def test_the_shell_knows_the_slots_of_each_node(tasks, slots):
    script = f'{batch._PREPARE}\nprintf "%s" "$CW_SLOTS"'
    environment = {"PATH": "/usr/bin:/bin", "SLURM_TASKS_PER_NODE": tasks, "SLURM_JOB_END_TIME": "5"}
    assert subprocess.check_output(["bash", "-c", script], env=environment, text=True) == slots


def test_sbatch_is_asked_for_what_the_plan_says():
    plan = Plan("x", 7, True, "2:00:00", "long", "4G", ["--port", "0"], ["--account=a b", "--max-jobs=3"])
    workers = batch.worker_script(plan, "t0", "/logs/100%", 30.0)
    assert {"--job-name=cw-x-workers-t0", "--ntasks=7", "--nodes=7", "--ntasks-per-node=1", "--time=2:00:00",
            "--requeue", "--partition=long", "--mem-per-cpu=4G", "--account=a b", "--signal=28@65",
            "--open-mode=append",
            "--output=/logs/100%%/workers-%j.log"} <= set(workers.arguments)  # fmt: skip
    assert "--max-jobs=3" in workers.text and "--grace 20 " in workers.text
    master = batch.master_script(plan, "t0", "/logs")
    assert {"--ntasks=1", "--time=2:00:00", "--partition=long"} <= set(master.arguments)
    assert "--port 0" in master.text and "--mem-per-cpu=4G" not in master.arguments
    assert (
        batch.worker_script(plan._replace(time="1"), "t0", "/logs", 3.0).arguments.count("--signal=28@12")
        == 1
    )


def test_what_is_shown_is_what_is_submitted():
    script = batch.worker_script(Plan("x", 1, worker_options=["--comment=it's $5"]), "t0", "/logs", 30.0)
    shown = script.as_shell()
    command, _, rest = shown.partition(" <<'END_OF_SCRIPT'\n")
    assert shlex.split(command) == ["sbatch", *script.arguments]
    assert rest == f"{script.text}END_OF_SCRIPT\n"
    subprocess.run(["bash", "-n"], input=script.text, text=True, check=True)


def test_what_makes_no_sense_is_refused():
    for changes in ({"docker_image": "a", "apptainer_image": "b"}, {"docker_args": ["-v"]}, {"name": "a/b"}):
        with pytest.raises(ValueError):
            batch.check(Plan("x", 1)._replace(**changes))
