"""GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES and its kin take.

    CUDA_VISIBLE_DEVICES, ROCR_..., HIP_..., the batch job's    the first that is set decides
    otherwise, outside of batch jobs: the files of the drivers
                                                                --> Devices(names, variable, source)

No driver is called: a call would take a second, memory of each device, and a context that forked processes cannot use.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping

from cw.machine import batch_job
from cw.named_tuple import NamedTuple

CUDA = "CUDA_VISIBLE_DEVICES"
ROCR = "ROCR_VISIBLE_DEVICES"
HIP = "HIP_VISIBLE_DEVICES"

VARIABLES = CUDA, ROCR, HIP

_NONE = "", "-1", "NoDevFiles", "none", "void"
"""Names that stand for no device: CUDA's, Slurm's, those of containers."""

_NAME = re.compile(r"[\w.:/-]{1,64}", re.ASCII)
"""An index, or a UUID: GPU-8932f937-…, MIG-GPU-8932f937-…/1/0, MIG-…."""


class Devices(NamedTuple):
    """Devices that were found."""

    names: tuple[str, ...]
    """Index, UUID or MIG name of each."""
    variable: str
    """The variable by which a process gets some of them: `CUDA`, `ROCR` or `HIP`. With AMD's, the indices of one count
    within the other, so only one may be set."""
    source: str
    """What says so."""


def usable_gpus(environ: Mapping[str, str], root: str = "/") -> Devices:
    """Return the devices. A variable that is set and empty means none."""
    nvidia = _count_nvidia(root)
    amd = 0 if nvidia else _count_amd(root)
    variables = (ROCR, HIP, CUDA) if amd else (CUDA, ROCR, HIP)
    for name in variables:
        if name in environ:
            return Devices(names_in(environ[name]), name, name)
    if of_job := batch_job.gpus(environ):
        return Devices(names_in(of_job[1]), variables[0], of_job[0])
    if batch_job.is_inside(environ):  # all devices of the node would be those of other jobs, too
        return Devices((), variables[0], "Slurm")
    source = "NVIDIA's driver" if nvidia else "AMD's driver" if amd else "no driver"
    return Devices(numbered(nvidia or amd), variables[0], source)


def names_in(text: str) -> tuple[str, ...]:
    """Return the devices that such a variable names, each once; as CUDA does, up to the first that is none."""
    parts = (part.strip() for part in text.split(","))
    named = itertools.takewhile(lambda name: name not in _NONE and _NAME.fullmatch(name), parts)
    return tuple(dict.fromkeys(named))


def numbered(count: int) -> tuple[str, ...]:
    """Return the names of this many devices that are known by index alone."""
    return tuple(map(str, range(count)))


def _count_nvidia(root: str) -> int:
    """Count the devices of NVIDIA's driver whose file may be used. (A container may have some of them.) The files may
    be made when a device is first used, by a program that containers do not have; then the driver's list counts."""
    devices = [name for name in _names(root, "dev") if re.fullmatch(r"nvidia\d+", name)]
    if not devices and os.path.exists(os.path.join(root, "usr/bin/nvidia-modprobe")):
        return len(_names(root, "proc/driver/nvidia/gpus"))
    return sum(os.access(os.path.join(root, "dev", name), os.R_OK | os.W_OK) for name in devices)


def _count_amd(root: str) -> int:
    """Count the devices in the topology of AMD's driver whose file may be used."""
    nodes = "sys/class/kfd/kfd/topology/nodes"
    count = 0
    for name in _names(root, nodes):
        try:
            with open(os.path.join(root, nodes, name, "properties")) as file:
                properties = dict(line.split()[:2] for line in file if len(line.split()) >= 2)
        except OSError:  # devices that a container was not given cannot be read
            continue
        minor = properties.get("drm_render_minor", "0")
        if properties.get("simd_count", "0") != "0":
            count += os.access(os.path.join(root, f"dev/dri/renderD{minor}"), os.R_OK | os.W_OK)
    return count


def _names(root: str, directory: str) -> list[str]:
    try:
        return os.listdir(os.path.join(root, directory))
    except OSError:
        return []
