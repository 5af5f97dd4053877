"""Lines of the workers' batch script for pieces of several nodes, all of which are for one job at a time.

    batch script: HOSTFILE ---> srun STEP, on the first node ---> the worker --hostfile ---> srun, mpirun of a job

The step of the worker has the first node only. Jobs start their processes in steps of their own (`cw.slurm.inside`).
"""

from __future__ import annotations

HOSTFILE = """\
# The nodes, each once for each of its tasks: so all of Open MPI, MPICH and Intel MPI read a hostfile.
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
slots=($CW_SLOTS)
for i in "${!nodes[@]}"; do
    for ((n = 0; n < slots[i]; n++)); do echo "${nodes[i]}"; done
done >"$CW_LOGS/hosts-$SLURM_JOB_ID" || exit"""
"""Lines after those that set CW_SLOTS, the number of tasks of each node."""

STEP = "--nodes=1 --ntasks=1 --relative=0"
"""Options of srun for the worker."""

WORKER = '--hostfile "$CW_LOGS/hosts-$SLURM_JOB_ID"', "nodes: $SLURM_JOB_NODELIST"
"""Options of the worker, and what its log says of them."""
