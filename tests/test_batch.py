"""The batch scripts: what sbatch is asked for, and what the shell makes of what is in them."""

import shlex
import subprocess

import pytest

from cw.launch.plan import Plan, ScriptRequest
from cw.machine import batch_job
from cw.slurm import batch, inside


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("5", 300), ("1:30", 90), ("2:00:00", 7200), ("1-0", 86400), ("1-12:30", 131400), ("0-0:0:5", 5),
     ("UNLIMITED", None), ("", None)],
)  # fmt: skip
def test_time_limits_are_read_as_sbatch_reads_them(limit, seconds):
    assert batch.seconds_of(limit) == seconds


@pytest.mark.parametrize(
    ("tasks", "slots"),
    [("1", "1 "), ("2(x3)", "2 2 2 "), ("2(x2),1", "2 2 1 "), ("1,3", "1 3 "), ("10(x1),7(x2)", "10 7 7 ")],
)
def test_the_shell_knows_the_slots_of_each_node(tasks, slots):
    script = f'{batch._PREPARE}\nprintf "%s" "$CW_SLOTS"'
    environment = {"PATH": "/usr/bin:/bin", "SLURM_TASKS_PER_NODE": tasks, "SLURM_JOB_END_TIME": "5"}
    assert subprocess.check_output(["bash", "-c", script], env=environment, text=True) == slots


@pytest.mark.parametrize(
    ("given", "mib"),
    [({}, "0"), ({"SLURM_MEM_PER_NODE": "3000"}, "3000"), ({"SLURM_MEM_PER_CPU": "500"}, "2000")],
)
def test_a_worker_hears_the_memory_of_its_job_on_its_node(given, mib):
    (line,) = (line for line in batch._ON_NODE.splitlines() if batch_job.FOR_WORKERS in line)
    read = next(line for line in batch._ON_NODE.splitlines() if line.startswith("mem="))
    script = f'{batch._PREPARE}\n{read}\n{line}\nprintf "%s" "${batch_job.FOR_WORKERS}"'
    environment = {"PATH": "/usr/bin:/bin", "SLURM_JOB_END_TIME": "5", "SLURM_CPUS_ON_NODE": "4", **given}
    assert subprocess.check_output(["bash", "-c", script], env=environment, text=True) == mib


@pytest.mark.parametrize(
    ("tasks", "gpus", "option"),
    [("3", "3", "--gpus-per-node=3"), ("4(x2)", "2", "--gpus-per-node=2"), ("4,1", "8", "--gpus-per-node=2"),
     ("2", "", "")],
)  # fmt: skip
def test_the_step_of_the_workers_has_the_gpus_of_all_tasks(tasks, gpus, option):
    script = f'{batch._PREPARE}\n{inside.GPUS}\nprintf "%s" "$CW_GPUS$SLURM_GPUS_PER_TASK"'
    environment = {"PATH": "/usr/bin:/bin", "SLURM_TASKS_PER_NODE": tasks, "SLURM_JOB_END_TIME": "5",
                   **({"SLURM_GPUS_PER_TASK": "1", "SLURM_GPUS_ON_NODE": gpus} if gpus else {})}  # fmt: skip
    assert subprocess.check_output(["bash", "-c", script], env=environment, text=True) == option


def request(role, plan=None, logs="/logs", **changes):
    return ScriptRequest(role, plan or Plan("x", 7), "t0", logs, **changes)


def test_sbatch_is_asked_for_what_the_plan_says():
    plan = Plan("x", 7, True, "2:00:00", "long", "4G", ["--port", "0"], ["--account=a b", "--max-jobs=3"])
    workers = batch.worker_script(request("workers", plan, "/logs/100%"))
    assert {"--job-name=cw-x-workers-t0", "--ntasks=7", "--nodes=7", "--ntasks-per-node=1", "--time=2:00:00",
            "--requeue", "--partition=long", "--mem-per-cpu=4G", "--account=a b", "--signal=28@65",
            "--open-mode=append",
            "--output=/logs/100%%/workers-%j.log"} <= set(workers.arguments)  # fmt: skip
    assert "--max-jobs=3" in workers.text and "--grace 20 " in workers.text
    master = batch.master_script(request("master", plan))
    assert {"--ntasks=1", "--time=2:00:00", "--partition=long"} <= set(master.arguments)
    assert "--port 0" in master.text and "--mem-per-cpu=4G" not in master.arguments
    short = batch.worker_script(request("workers", plan._replace(time="1"), kill_wait=3.0))
    assert short.arguments.count("--signal=28@12") == 1


def test_what_both_jobs_need_is_said_of_both_and_one_may_differ():
    plan = Plan("x", 1, account="physics", qos="high", constraint="a&b", reservation="r", exclude="n[1-2]")
    plan = plan._replace(batch_options=["--comment=all"], master_options=["--comment=one"], setup=["cd /"])
    both = ["--account=physics", "--qos=high", "--constraint=a&b", "--reservation=r", "--exclude=n[1-2]"]
    for role, script in (("master", batch.master_script), ("workers", batch.worker_script)):
        made = script(request(role, plan))
        assert set(both) <= set(made.arguments) and "eval" in made.text
        comments = [option for option in made.arguments if option.startswith("--comment")]
        assert comments == (["--comment=all", "--comment=one"] if role == "master" else ["--comment=all"])


def test_a_refusal_names_the_job_and_what_was_asked_for_it():
    plan = Plan("x", 3, account="a b", worker_options=["--mem=1T"])
    assert batch.worker_script(request("workers", plan)).what == (
        "the job of the workers, with '--account=a b' --ntasks=3 --signal=28@65 --mem=1T"
    )
    assert (
        batch.master_script(request("master", plan)).what
        == "the job of the master, with '--account=a b' --ntasks=1"
    )


def test_a_successor_begins_when_the_job_before_it_has_ended_and_not_too_soon():
    own = {"dependency", "begin"}
    for changes, asked in (
        ({}, []),
        ({"follows": 12}, ["--dependency=afterany:12"]),
        ({"follows": 12, "delay": 60}, ["--dependency=afterany:12", "--begin=now+60"]),
    ):
        script = batch.worker_script(request("workers", **changes))
        assert [a for a in script.arguments if a[2:].partition("=")[0] in own] == asked


def test_what_is_shown_is_what_is_submitted():
    script = batch.worker_script(request("workers", Plan("x", 1, worker_options=["--comment=it's $5"])))
    shown = script.as_shell()
    command, _, rest = shown.partition(" <<'END_OF_SCRIPT'\n")
    assert shlex.split(command) == ["sbatch", *script.arguments]
    assert rest == f"{script.text}END_OF_SCRIPT\n"
    subprocess.run(["bash", "-n"], input=script.text, text=True, check=True)


@pytest.mark.parametrize("option", ["--array=1-3", "-J", "-Jname", "--wrap", "-n5"])
def test_what_cw_itself_says_to_sbatch_is_not_the_users_to_say(option):
    batch.check_options(["--account=physics", "-A", "physics", "--nice"])
    with pytest.raises(ValueError, match=f"^{option}: that is said to sbatch by cw itself"):
        batch.check_options(["--account=physics", option])


def test_a_piece_of_several_nodes_has_one_worker_on_the_first_and_needs_them_all():
    plan = Plan("x", 1, job_nodes=2, node_slots=16, worker_options=["--nodes=9"], most=4)
    script = batch.worker_script(request("workers", plan))
    assert "--ntasks-per-node=16" in script.arguments and "--no-kill" not in script.arguments
    assert script.arguments.index("--nodes=2") > script.arguments.index("--nodes=9")  # the last one counts
    assert "srun --nodes=1 --ntasks=1 --relative=0 --ntasks-per-node=1 " in script.text
    assert (
        '--hostfile "$CW_LOGS/hosts-$SLURM_JOB_ID" ${CW_UNTIL' in script.text and "OPTION" not in script.text
    )
    own = batch.worker_script(request("workers", plan._replace(node_slots=0)))  # the user's options say it
    assert not [option for option in own.arguments if option.startswith("--ntasks")]
