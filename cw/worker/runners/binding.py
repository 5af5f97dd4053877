"""What a new runner is bound to: its threads, devices and CPUs.

    context of the runner --> Binder --> Binding --> order to fork --> forkserver's child: `apply`, then the runner

So the variables are set before the user's modules are imported, which read them once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping

from cw.machine import hostfile
from cw.machine.gpus import CUDA, HIP, ROCR
from cw.named_tuple import NamedTuple
from cw.payloads import current

THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "LOKY_MAX_CPU_COUNT",
    "PYTHON_CPU_COUNT",
)  # fmt: skip
"""Variables that limit the threads of libraries, and (Python 3.13 or later) what `os.cpu_count()` returns."""

HIDDEN = {CUDA: "", ROCR: "", HIP: "-1"}
"""Values with which libraries find no device. (HIP treats an empty text as if nothing was set.)"""

PACKET = 128 * 1024
"""Most bytes of a packet with a binding: the names of many devices."""


class Binding(NamedTuple):
    """What one runner is bound to."""

    variables: dict[str, str | None]
    """Environment variables that differ from the forkserver's; None: it has none of that name."""
    gpus: list[str] | None
    """Names of its devices; None: it sees what its worker sees."""
    cpus: list[int]
    """Numbers of the CPUs to which it is pinned; []: it runs on those of its worker."""
    hostfile: str = ""
    """File with the machines of each job, if there are several."""


class Binder:
    """Says what the runners of one worker are bound to.

    `threads`: of those whose jobs name no CPUs. `gpus`: the worker's devices, if each runner sees only its own.
    `variable`: the one that names devices to libraries. `environ`: the worker's own environment. `hostfile`: as in
    Binding.
    """

    def __init__(
        self,
        threads: int,
        gpus: tuple[str, ...] = (),
        variable: str = CUDA,
        environ: Mapping[str, str] = os.environ,
        hostfile: str = "",
    ) -> None:
        self.threads = threads
        self._hostfile = hostfile
        self.of_worker = {name: str(threads) for name in THREADS if name not in environ}
        """Variables of all runners whose jobs name no CPUs."""
        self._gpus = gpus
        # Numbers in one of these count among the devices that another leaves.
        others = (name for name in (CUDA, ROCR, HIP, "GPU_DEVICE_ORDINAL") if name != variable)
        self._others = dict.fromkeys(name for name in others if name in environ)
        self._variable = variable

    def bind(self, cpus: int, devices: tuple[str, ...], numbers: tuple[int, ...]) -> Binding:
        """Return the binding of a runner for jobs that name so many CPUs (0: none), on these devices and CPUs."""
        variables: dict[str, str | None] = dict.fromkeys(self.of_worker, str(cpus)) if cpus else {}
        if devices:
            variables |= {**self._others, self._variable: ",".join(devices)}
        elif self._gpus:
            variables |= HIDDEN
        is_bound = bool(devices or self._gpus)
        return Binding(variables, list(devices) if is_bound else None, list(numbers), self._hostfile)


def apply(binding: Binding) -> None:
    """Bind this process, a runner that has run nothing yet."""
    for name, value in binding.variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    count = binding.variables.get("PYTHON_CPU_COUNT")
    if count is not None and sys.version_info >= (3, 13):  # which has read that variable at its start
        os.cpu_count = os.process_cpu_count = lambda: int(count)
    if binding.gpus is not None:
        current.gpus = tuple(binding.gpus)
    if binding.hostfile:
        current.hostfile = binding.hostfile
        with contextlib.suppress(ValueError):  # it is gone
            current.nodes = hostfile.read(binding.hostfile)
    if binding.cpus:
        with contextlib.suppress(OSError):  # CPUs that were taken away meanwhile
            os.sched_setaffinity(0, binding.cpus)
