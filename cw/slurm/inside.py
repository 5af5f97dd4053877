"""Lines of the workers' batch script by which jobs see their allocation as a batch script would see it.

    batch script: SAVE ---> srun $CW_GPUS, one task a node ---> on the node: RESTORE ---> the worker ---> srun of a job

The worker's step has all of the job's CPUs on its node, and one task there. So an `srun` or `mpirun` of a job would
wait for ever for CPUs that the step holds, and would take the step's number of tasks for its own; and of devices that
were asked for by task, the step would have those of one task.
"""

from __future__ import annotations

SAVE = """\
# Slurm's variables of the job, which the workers' step replaces by its own.
export CW_ALLOCATION="$(export -p | grep -E '^declare -x SLURM_(JOB_|N|TASKS_|CPUS_PER_|MEM_PER_|GPUS|TRES_PER_)')\""""
"""Lines before others that change Slurm's variables."""

GPUS = """\
# GPUs that were asked for by task: the workers' step has one task a node, and needs those of all tasks there.
if [ -n "$SLURM_GPUS_PER_TASK$SLURM_NTASKS_PER_GPU$SLURM_TRES_PER_TASK" ] && [ -n "$SLURM_GPUS_ON_NODE" ]; then
    fewest=$(tr ' ' '\\n' <<<"${CW_SLOTS% }" | sort -n | head -n 1)
    CW_GPUS=--gpus-per-node=$((SLURM_GPUS_ON_NODE * fewest / ${CW_SLOTS%% *}))
    unset SLURM_GPUS_PER_TASK SLURM_NTASKS_PER_GPU SLURM_TRES_PER_TASK SLURM_GPUS SLURM_GPU_BIND
fi"""
"""Lines between CW_SLOTS, the number of slots of each node, and the `srun $CW_GPUS` of the workers."""

RESTORE = """\
# What jobs start by srun or mpirun sees the allocation, not this step, and shares its CPUs.
node=$SLURM_NODEID
unset ${!SLURM_STEP*} ${!SLURM_SRUN_*} ${!SLURM_CPU_BIND*} ${!SLURM_NTASKS*} ${!SRUN_*} ${!PMI*} \\
    SLURM_NPROCS SLURM_TASKS_PER_NODE SLURM_LAUNCH_NODE_IPADDR SLURM_DISTRIBUTION SLURM_KILL_BAD_EXIT SLURM_NO_KILL \\
    SLURM_MPI_TYPE SLURM_UMASK SLURM_GPUS_PER_NODE
eval "$CW_ALLOCATION"
export SLURM_NODEID=$node SLURM_OVERLAP=1
unset CW_ALLOCATION node"""
"""Lines on each node before the worker begins."""
