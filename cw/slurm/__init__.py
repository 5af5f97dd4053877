"""A cluster in Slurm: `cw.slurm.start`, `stop`, `status`, `scale`, `allocate`, `master_host`; `python -m cw.slurm`."""

from cw.slurm.cluster import JobStatus, Status, allocate, scale, start, status, stop
from cw.slurm.finding import master_host, slurm_master_host
from cw.slurm.starting import SlurmCluster

__all__ = ["JobStatus", "SlurmCluster", "Status", "allocate", "master_host", "scale", "slurm_master_host", "start",
           "status", "stop"]  # fmt: skip
