"""Slurm as a batch system: sbatch, squeue and scancel behind the methods of `cw.launch.batch_system.BatchSystem`.

batch.py: what is submitted. squeue.py: what is asked. Nothing else knows Slurm's programs, options and variables.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence

from cw.launch.batch_system import Asked, ListedJob, Script, SubmittedJob
from cw.launch.launcher import LaunchError
from cw.launch.piece_sizes import NodeSlots
from cw.launch.plan import Plan, ProgramRequest, ScriptRequest
from cw.slurm import asked, batch, sinfo, squeue

_HAS_ENDED = re.compile("Invalid job id|already completing|already completed|Job/step already|not active")


BUSY_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Pauses before sbatch is called again, if the controller has no time for it (seconds). More: a start waits longer
for a controller that never has. Fewer: the start of many pieces fails while others submit many jobs."""

_IS_BUSY = "Resource temporarily unavailable"


class Slurm:
    """Batch system Slurm, with the programs that are on the PATH."""

    name = "slurm"
    title = "Slurm"
    submit_program = "sbatch"
    cancel_program = "scancel"
    list_seconds = squeue.QUEUE_SECONDS
    call_seconds = squeue.CALL_SECONDS

    def is_installed(self) -> bool:
        return squeue.is_installed()

    def is_present(self) -> bool:
        return squeue.is_there()

    def check_present(self) -> None:
        squeue.check_is_there()

    def check_answers(self) -> None:
        squeue.check_answers()

    def check_options(self, options: Sequence[str]) -> None:
        batch.check_options(options)

    def look_at_nodes(self, plan: Plan) -> NodeSlots | None:
        return sinfo.look_at_nodes(plan)

    def asked(self, plan: Plan) -> Asked:
        return asked.asked(plan)

    def kill_wait(self) -> float:
        return squeue.kill_wait()

    def current_job(self) -> int:
        return squeue.current_job()

    def script(self, request: ScriptRequest) -> Script:
        if request.has_workers:
            return batch.host_script(request)
        return batch.master_script(request) if request.role == "master" else batch.worker_script(request)

    def program_script(self, request: ProgramRequest) -> Script:
        return batch.program_script(request)

    def submit(self, script: Script) -> tuple[int, str]:
        """Submit a script; see BatchSystem. Raises LaunchError with Slurm's own message."""
        try:
            output = _submit_patiently(script).split()
        except squeue.Refusal as error:
            raise LaunchError(f"{error} (refused is {script.what})") from None
        ident, _, cluster = (output[-1] if output else "").partition(";")
        if not ident.isdigit():
            raise LaunchError(f"sbatch does not say which job it has submitted, but {' '.join(output)!r}")
        return int(ident), cluster

    def list_jobs(self, cluster: str = "") -> squeue.Listing:
        return squeue.listing(cluster)

    def node_names(self, row: ListedJob) -> Sequence[str]:
        return squeue.expand(row.nodes)

    def first_host(self, row: ListedJob) -> str:
        return squeue.address_of(squeue.expand(row.nodes)[0])

    def notify(self, jobs: Sequence[SubmittedJob]) -> None:
        self._scancel(jobs, "--state=PENDING")
        # (For a job that waits, or has just begun, scancel would try for minutes.)
        self._scancel(jobs, "--state=RUNNING", f"--signal={batch.NOTICE}")

    def end_workers(self, jobs: Sequence[SubmittedJob]) -> None:
        self._scancel(jobs, "--state=RUNNING", "--signal=TERM")  # (steps only)

    def release(self, jobs: Sequence[SubmittedJob]) -> None:
        for job in jobs:
            cluster = squeue.of_cluster(job.cluster)
            squeue.call("scontrol", *cluster, "update", f"JobId={job.ident}", "Dependency=")

    def cancel(self, jobs: Sequence[SubmittedJob]) -> None:
        self._scancel(jobs)

    def cancel_named(self, name: str, cluster: str) -> None:
        squeue.call("scancel", *squeue.of_cluster(cluster), f"--user={os.getuid()}", f"--name={name}")

    def signal_program(self, jobs: Sequence[SubmittedJob], number: int) -> None:
        self._scancel(jobs, "--batch", f"--signal={int(number)}")

    def _scancel(self, jobs: Sequence[SubmittedJob], *arguments: str) -> None:
        for cluster in {job.cluster for job in jobs}:
            idents = [str(job.ident) for job in jobs if job.cluster == cluster]
            # Also by name: the id may be another job's by now.
            for name in {job.name for job in jobs if job.cluster == cluster}:
                try:
                    squeue.call("scancel", *squeue.of_cluster(cluster), *arguments, f"--name={name}", *idents)
                except LaunchError as error:
                    if not _HAS_ENDED.search(str(error)):
                        raise


def _submit_patiently(script: Script) -> str:
    """Call sbatch, again after a while if it is told that there is no time for it; returns its output."""
    for pause in BUSY_SECONDS:
        try:
            return squeue.call(script.program, "--parsable", *script.arguments, text=script.text)
        except LaunchError as error:
            if _IS_BUSY not in str(error):
                raise
        time.sleep(pause)
    return squeue.call(script.program, "--parsable", *script.arguments, text=script.text)
