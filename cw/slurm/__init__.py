"""A cluster in Slurm: `cw.slurm.start`, `stop`, `status`, `scale`, `allocate`, `add`, `resume`,
`master_host`; `python -m cw.slurm`."""

from cw.slurm.cluster import JobStatus, Status, add, allocate, resume, scale, start, status, stop
from cw.slurm.elastic import KindStatus
from cw.slurm.finding import master_host, slurm_master_host
from cw.slurm.starting import SlurmCluster

__all__ = ["JobStatus", "KindStatus", "SlurmCluster", "Status", "add", "allocate", "master_host", "resume", "scale",
           "slurm_master_host", "start", "status", "stop"]  # fmt: skip
