"""What Slurm answers, and what it is asked: with stand-ins for failing or strange answers of its programs."""

import os
import subprocess
import sys

import pytest
from conftest import wait_until
from programs import LIMIT

import cw
from cw.launch.launcher import LaunchError
from cw.launch.plan import Plan, job_name
from cw.slurm import squeue, submitted


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """Let one of Slurm's programs print this, and count its calls."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_CONF", raising=False)

    def answer(program, output="", error="", status=0, seconds=0):
        (directory / f"{program}.out").write_text(output)
        (directory / f"{program}.err").write_text(error)
        hang = f"exec sleep {seconds}\n" * bool(seconds)
        (directory / program).write_text(
            f'#!/bin/sh\necho "$@" >>{directory}/{program}.calls\nenv >{directory}/{program}.env\n{hang}'
            f"cat {directory}/{program}.err >&2\ncat {directory}/{program}.out\nexit {status}\n"
        )
        (directory / program).chmod(0o755)
        calls = directory / f"{program}.calls"
        return lambda: calls.read_text().splitlines() if calls.exists() else []

    answer.environment = lambda program: (directory / f"{program}.env").read_text()
    return answer


@pytest.fixture
def clock(monkeypatch):
    """Moves on by hand."""
    now = [1_800_000_000.0]
    monkeypatch.setattr(squeue.time, "time", lambda: now[0])
    return now


ROWS = """\
CLUSTER: gold
12|12|RUNNING|None|1795427961|1795428081|n[1-3]|cw-default-workers-abc123
13|13|PENDING|Resources|N/A|N/A||cw-default-master-abc123
14|14|RUNNING|None|1795427961|1795428081|n7|somebody's | job\tof 100%
a line of a name that has several
15|15|PENDING|Priority|N/A|N/A||another
16|16|CANCELLED|None|1795427961|1795428081|n2|cw-default-workers-ffffff
"""

ARRAY = """\
20|20_[4-7,9%2]|PENDING|Priority|N/A|N/A||cw-x
21|20_1|RUNNING|None|1795427961|1795428081|n1|cw-x
22|20_2|PENDING|JobHeldUser|N/A|N/A||cw-x
23|23_[0-20:10]|PENDING|Priority|N/A|N/A||cw-x
24|24_[1,3-...]|PENDING|Priority|N/A|N/A||cw-x
25+0|25+0|RUNNING|None|1|2|n1|cw-x
26|26|RUNNING|None|1|2|n1|cw-x
"""


def test_a_listing_is_of_jobs_with_names_like_ours_however_odd_the_others_are(answer):
    answer("squeue", ROWS)
    found = squeue.listing()
    assert sorted(found.rows) == [12, 13, 16] and found.failure == ""
    assert found.rows[12].nodes == "n[1-3]" and found.rows[12].end - found.rows[12].start == 120
    assert (found.rows[13].start, found.rows[13].end) == (0, 0)


def test_a_start_after_the_end_of_what_never_ends_is_not_known(answer, clock):
    start, end = int(clock[0]) + 365 * 24 * 3600, int(clock[0]) + 999
    answer("squeue", f"1|1|PENDING|Resources|{start}|N/A||cw-x\n2|2|PENDING|Resources|{end}|N/A||cw-x\n")
    rows = squeue.listing().rows
    assert (rows[1].start, rows[2].start) == (0, end)


def test_tasks_of_an_array_are_known_by_both_their_ids(answer):
    answer("squeue", ARRAY)
    rows = squeue.listing().rows
    assert sorted(rows) == [20, 21, 22, 23, 24, 26] and rows == squeue.listing().rows  # as it was kept
    called = {
        "21": [21], "20_1": [21], "20_2": [22], "20_4": [20], "20_7": [20], "20_8": [], "20_9": [20], "23_10": [23],
        "23_5": [], "24_3": [24], "20": [20], "26": [26], "2_1": [], "": [],
    }  # fmt: skip
    for ident, rows_called in called.items():
        assert [row.ident for row in rows.values() if row.is_called(ident)] == rows_called
    assert rows[22].describe() == "waits in the queue: you hold it: scontrol release 20_2 (JobHeldUser)"


def test_ids_and_names_together_tell_our_jobs(answer):
    """Another user's job, or one that a controller that has lost its memory gave our id, is none of ours."""
    state = submitted.State("default")
    state.token = "abc123"
    names = [job_name("default", role, state.token) for role in ("workers", "master", "workers")]
    state.jobs = [
        submitted.BatchJob("workers", number, "", name, 1, 0.0)
        for number, name in zip((12, 13, 16), names, strict=True)
    ]
    answer("squeue", ROWS)
    assert sorted(state.rows()) == [12, 13]


def test_squeue_is_called_once_in_15_seconds_also_when_it_fails(answer, clock):
    calls = answer("squeue", error="slurm_load_jobs error: Socket timed out\n", status=1)
    assert [squeue.listing().failure for _ in range(3)] == [
        "squeue: slurm_load_jobs error: Socket timed out"
    ] * 3
    clock[0] += 14
    assert squeue.listing().failure and len(calls()) == 1
    answer("squeue", ROWS)
    clock[0] += 2
    assert len(squeue.listing().rows) == 3 and len(calls()) == 2
    answer("squeue", error="slurm_load_jobs error: Unable to contact slurm controller\n", status=1)
    clock[0] += 16
    found = squeue.listing()
    assert "Unable to contact" in found.failure and len(found.rows) == 3  # what was known
    assert len(calls()) == 3
    squeue.listing("other")  # another cluster of Slurm's
    assert len(calls()) == 4 and calls()[-1].split()[-4:-2] == ["-M", "other"]


def test_of_thousands_of_jobs_those_that_have_not_ended_are_remembered(answer):
    nodes = ",".join(f"rack{number}-node[1-9]" for number in range(100))
    rows = [f"{n}|{n}|COMPLETED|None|1|2|{nodes}|cw-block-x-workers-{n:06}" for n in range(10, 3000)]
    calls = answer("squeue", "\n".join(["1|1|RUNNING|None|1|2|n1|cw-default-workers-abc123", *rows, ""]))
    for _ in range(2):
        found = squeue.listing().rows
        assert len(found) == squeue.ROWS_KEPT and {1, 2999} <= found.keys() and found[2999].nodes == nodes
    assert len(calls()) == 1


def test_a_damaged_cache_is_passed_over(answer, clock):
    calls = answer("squeue", ROWS)
    squeue.listing()
    for path in (p for p in os.scandir(os.environ["CW_HOME"]) if p.name.endswith(".json")):
        for damage in ("", "[]", "{", '{"rows": 7}', '{"rows": [[1]], "asked_at": 0}'):
            with open(path.path, "w") as file:
                file.write(damage)
            assert len(squeue.listing().rows) == 3
    assert len(calls()) == 6


def test_slurms_programs_do_not_see_the_job_around_them_nor_the_users_habits(answer, monkeypatch):
    for name in ("SLURM_NTASKS", "SLURM_JOB_ID", "SQUEUE_FORMAT", "SBATCH_WAIT", "SLURM_EXPORT_ENV"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("SLURM_CLUSTERS", "gold")
    monkeypatch.setenv("SBATCH_ACCOUNT", "physics")
    answer("squeue")
    squeue.call("squeue")
    lines = answer.environment("squeue").splitlines()
    names = {line.partition("=")[0] for line in lines}
    assert (
        names & {"SLURM_NTASKS", "SLURM_JOB_ID", "SQUEUE_FORMAT", "SBATCH_WAIT", "SLURM_EXPORT_ENV"} == set()
    )
    assert {"SLURM_CLUSTERS=gold", "SBATCH_ACCOUNT=physics", "SLURM_TIME_FORMAT=%s"} <= set(lines)


def test_sbatch_may_name_the_cluster(answer):
    answer("sbatch", "4711;gold\n")
    answer("scontrol", "KillWait                = 45 sec\n")
    cancelled = answer("scancel")
    with submitted.locked("default") as state:
        state.begin()
        state.plans["workers"] = Plan("default", 2)
        job = state.submit("workers")
        assert (job.ident, job.cluster, str(job)) == (4711, "gold", "Slurm job 4711 of gold")
        assert state.kill_wait == 45
        assert submitted.State.load("default").jobs == [job]
        state.cancel([job])
    assert cancelled() == [f"-M gold --name={job.name} 4711"]
    answer("sbatch", "Submitted, perhaps\n")
    with submitted.locked("default") as state, pytest.raises(LaunchError, match="does not say which job"):
        state.submit("workers")


def test_what_a_program_says_when_it_fails_is_the_errors_text(answer):
    answer("sbatch", error="sbatch: error: Batch job submission failed: Invalid account\n", status=1)
    with pytest.raises(LaunchError, match="^sbatch: Batch job submission failed: Invalid account$"):
        squeue.call("sbatch")
    answer("sbatch", seconds=30)
    with pytest.raises(LaunchError, match="has not answered within 0.2 s"):
        squeue.call("sbatch", seconds=0.2)
    with pytest.raises(LaunchError, match="no sbatch-of-nowhere on the PATH"):
        squeue.call("sbatch-of-nowhere")


# --- is Slurm there? --------------------------------------------------------------------------


def test_slurm_is_there_if_its_controller_answers_and_that_is_remembered(answer, clock):
    answer("sbatch")
    calls = answer("scontrol", "Slurmctld(primary) at head is UP\n")
    assert squeue.is_there() and squeue.is_there() and len(calls()) == 1
    code = "from cw.slurm import squeue; squeue.time.time = lambda: 1_800_000_005.0; print(squeue.is_there())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True\n"
    assert len(calls()) == 1
    clock[0] += 1000
    answer("scontrol", "Slurmctld(primary) at head is DOWN\n", status=1)
    assert not squeue.is_there() and len(calls()) == 2


def test_a_controller_that_hangs_is_not_waited_for(answer, monkeypatch):
    monkeypatch.setattr(squeue, "PING_SECONDS", 0.2)
    answer("sbatch")
    answer("scontrol", seconds=30)
    assert not squeue.is_there()


def test_in_an_allocation_slurm_is_there(answer, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    answer("sbatch")
    assert squeue.is_there()


def test_without_slurm_a_cluster_is_on_this_machine(answer):
    answer("scontrol", status=1)
    with cw.allocate(1, worker_options=["--time=2:00:00", "--max-jobs", "5"]) as cluster:
        assert type(cluster) is cw.mp.LocalCluster
        with cw.ClusterExecutor() as executor:
            assert executor.submit(pow, 2, 5).result(LIMIT) == 32
    cluster = cw.start(1)
    assert cw.mp.status() is not None
    assert cw.stop() and not cw.stop()
    wait_until(lambda: cw.mp.status() is None, LIMIT)
