"""What the logs of a cluster's jobs say of their ends."""

from pathlib import Path

import pytest
from test_batch_system import state, table  # noqa: F401  (fixtures)

import cw
from cw.slurm import finding, job_logs
from cw.slurm.submitted import State

FAILED = "cw: a line of --setup failed (exit status 1): module load gcc"


@pytest.fixture
def workers(state, table):  # noqa: F811
    """The workers' job of a cluster, which has ended; its plan has a line of --setup."""
    state.plans["workers"] = state.plans["workers"]._replace(setup=["module load gcc"])
    state.save()
    table.set_state(2, "ended")
    return state.of_role("workers")[0]


def write_log(job, text):
    (Path(State.load("default").logs) / f"{job.role}-{job.ident}.log").write_text(text)


def test_a_job_that_ended_at_a_line_of_setup_is_told_so_everywhere(workers, state):  # noqa: F811
    write_log(workers, f"modules: none\n{FAILED}\n")
    told = "has failed: a line of --setup failed (exit status 1): module load gcc"
    assert finding.look_at(state, workers) == (f"Table job 2 (workers) {told}", True)
    assert [job.state for job in cw.slurm.status().jobs] == ["is waiting", told]


@pytest.mark.parametrize("text", ["", "modules: none\n", f"{FAILED}\n" + "a line of the next try\n" * 5])
def test_another_end_is_not_taken_for_it(workers, state, text):  # noqa: F811
    write_log(workers, text)
    assert job_logs.setup_failure(state, workers) == ""
    assert finding.look_at(state, workers) == ("Table job 2 (workers) is ended", True)


def test_errors_show_the_ends_of_the_logs_of_a_job(workers, state):  # noqa: F811
    assert "it has left no log in " in job_logs.tail(state, workers)
    write_log(workers, "x" * 3000 + "\nthe end\n")
    found = job_logs.tail(state, workers)
    assert found.endswith("x\nthe end") and len(found) < 2000 and "workers-2.log ends with:" in found
