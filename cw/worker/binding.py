"""What a runner is bound to: its threads, devices and CPUs, and the variables that make libraries keep to that.

    allocation --> Binding --> fork order --> forkserver's child: environment, affinity --> a line of the user's

The variables are set in the child before it runs as a runner, so before the user's modules are imported.

Pure: no socket, no thread, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import NamedTuple

THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "LOKY_MAX_CPU_COUNT",
    "PYTHON_CPU_COUNT",
)  # fmt: skip
"""Variables that limit the threads of libraries, and (Python 3.13 or later) what `os.cpu_count()` returns."""

CUDA, ROCR, HIP = "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"

HIDDEN = {CUDA: "", ROCR: "", HIP: "-1"}
"""Values with which the libraries find no device. (For HIP, an empty text is as if nothing was set.)"""

Pinning = Callable[[int, Set[int], tuple[int, ...]], tuple[int, ...]]
"""Chooses CPUs by number: (how many, which are free, which the runner had before) -> its CPUs; () if there are none."""


class Binding(NamedTuple):
    """What one runner is bound to, from its start to its end; its CPUs may be others for a later job."""

    threads: int = 0
    """Threads of libraries; 0: the worker's own share of each slot, which the forkserver has set."""
    gpus: tuple[str, ...] | None = None
    """Its devices; (): it sees none; None: it sees what the worker sees."""
    cpus: tuple[int, ...] = ()
    """Numbers of the CPUs that it may run on; (): as the worker."""


class Variables:
    """Variables of the runners of one worker. `gpus`: its devices; `own`: its own environment; `is_amd`: the machine's
    devices are AMD's."""

    def __init__(self, gpus: tuple[str, ...], own: Mapping[str, str], is_amd: bool = False) -> None:
        named = [name for name in (ROCR, HIP, CUDA) if own.get(name, "").split(",") == list(gpus)]
        if not is_amd:
            named.sort()
        self._devices = named[0] if named else ROCR if is_amd else CUDA
        # HIP counts among the devices that the others leave: a number would mean another device there, or none.
        others = (name for name in (ROCR, HIP, CUDA, "GPU_DEVICE_ORDINAL") if name != self._devices)
        self._contradicting = [name for name in others if is_amd and name in own]
        self._threads = [name for name in THREADS if name not in own]

    def of(self, binding: Binding) -> dict[str, str | None]:
        """Variables that a runner must set; None: it must have none of that name."""
        found: dict[str, str | None] = {}
        if binding.threads:
            found.update(dict.fromkeys(self._threads, str(binding.threads)))
        if binding.gpus:
            found.update(dict.fromkeys(self._contradicting))
            found[self._devices] = ",".join(binding.gpus)
        elif binding.gpus is not None:
            found.update(HIDDEN)
        return found
