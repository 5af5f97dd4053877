"""Lines about a cluster's jobs in Slurm: few jobs have one each, many that are alike have one together."""

from cw.slurm.cluster import JobStatus
from cw.slurm.job_lines import format_seconds, in_ranges, job_lines

MASTER = JobStatus(1, "master", "runs", "n1", None, 0, True)


def worker(ident, state="runs", nodes="n2", left=3600.0):
    return JobStatus(ident, "workers", state, nodes, left, 8, True)


def test_few_jobs_have_a_line_each():
    assert job_lines([MASTER, worker(2), worker(3, "waits in the queue", "", None)]) == [
        "master: Slurm job 1 runs on n1",
        "workers (8 slots): Slurm job 2 runs on n2, 01:00:00 left",
        "workers (8 slots): Slurm job 3 waits in the queue",
    ]


def test_many_that_are_alike_have_one_together():
    running = [worker(ident, left=100.0 * ident) for ident in range(2, 62)]
    waiting = [worker(ident, "waits in the queue (Priority)", "", None) for ident in (70, 71, 72, 80, 90)]
    assert job_lines([MASTER, *running, *waiting]) == [
        "master: Slurm job 1 runs on n1",
        "workers (8 slots each): 60 Slurm jobs (2-61), each runs, 00:03:20 left or more",
        "workers (8 slots each): 5 Slurm jobs (70-72, 80, 90), each waits in the queue (Priority)",
    ]


def test_numbers_and_times_are_short():
    assert (in_ranges([]), in_ranges([3]), in_ranges([9, 3, 4, 5])) == ("", "3", "3-5, 9")
    assert (format_seconds(59.9), format_seconds(90061), format_seconds(-1)) == (
        "00:00:59",
        "1-01:01:01",
        "00:00:00",
    )
