"""What a worker offers: found on its machine, or said by its options; and the words for that in its log.

--cpus --gpus --memory --resources --tags  -->  Offer(capacity, gpu_variable, text)
cw.cpus, cw.machine.gpus, cw.machine.memory  --^
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from cw import needs, program
from cw.cpus import usable_cpus
from cw.machine import batch_job, gpus, hostfile
from cw.machine.memory import usable_memory
from cw.named_tuple import NamedTuple
from cw.requirements import WorkerCapacity


class Offer(NamedTuple):
    """What a worker has for jobs."""

    capacity: WorkerCapacity
    gpu_variable: str
    """The variable by which a runner gets some of the devices (see `cw.machine.gpus.Devices`)."""
    text: str
    """All of it in words, with its sources where they are not obvious."""
    hostfile: str = ""
    """File with the machines that each job has, if there are several."""


def add_options(parser: Any) -> None:
    """Add the options by which a user says what the worker has."""
    converted_by = program.converted_by
    group = parser.add_argument_group("what jobs may ask for", "Without these options, what the machine has.")
    group.add_argument("--cpus", metavar="N", type=converted_by(_parse_cpus),
                       help="CPUs that jobs share, no fewer than SLOTS (default: the usable ones)")  # fmt: skip
    group.add_argument("--memory", metavar="SIZE", type=converted_by(_parse_memory),
                       help="memory that jobs share, such as 64GB (default: the least of what the machine has, its "
                       "control group allows and Slurm gives)")  # fmt: skip
    group.add_argument("--gpus", metavar="N|NAMES", type=converted_by(_parse_gpus),
                       help="GPUs that jobs share: a number, 0 for none, or names as CUDA_VISIBLE_DEVICES takes them: "
                       "'0,2' (one alone: '2,'); workers that share a machine need different ones (default: those of "
                       "CUDA_VISIBLE_DEVICES and its kin, or those of the driver)")  # fmt: skip
    group.add_argument("--share-gpus", action="store_true",
                       help="jobs that ask for no GPU see all of them (default: they see none)")  # fmt: skip
    group.add_argument("--pin", action="store_true",
                       help="let each job run on CPUs of its own, of one NUMA node if it has room")  # fmt: skip
    group.add_argument("--resources", metavar="NAME=N,...", type=converted_by(_parse_amounts), default=(),
                       help="amounts of other things that jobs share, by names of your own, such as "
                       "licence=3,disk=2")  # fmt: skip
    group.add_argument("--tags", metavar="NAME,...", type=converted_by(_parse_tags), default=(),
                       help="names of what the worker is, such as avx512,fast: jobs with these tags may run "
                       "here")  # fmt: skip
    group.add_argument("--hostfile", metavar="FILE", type=converted_by(_parse_hostfile),
                       help="machines that each job has: FILE names them, one a line, this one first. The worker runs "
                       "one job at a time, with as many nodes= in its options")  # fmt: skip


def make_offer(options: Any, environ: Mapping[str, str]) -> Offer:
    """Return what a worker with these options has. Raises UsageError."""
    slots, (file, hosts) = options.slots, options.hostfile or ("", ("",))
    if len(hosts) > 1 < slots:
        raise program.UsageError(
            f"-n {slots} and a --hostfile with {len(hosts)} hosts: all are for one job at a time; leave out -n"
        )
    cpus, found_memory, devices = _find_cpus(environ), usable_memory(environ), gpus.usable_gpus(environ)
    if options.cpus is not None:
        if options.cpus < slots:
            raise program.UsageError(
                f"--cpus {options.cpus} for {slots} slots (-n): each slot has a CPU; give --cpus {slots} or more, or "
                f"-n {options.cpus} or less"
            )
        cpus = options.cpus
    memory, memory_source = found_memory
    if options.memory is not None:
        memory, memory_source = options.memory, "--memory"
    names, gpu_source = devices.names, devices.source
    if isinstance(options.gpus, int):  # those that are visible, if they suffice
        names = names[: options.gpus] if options.gpus <= len(names) else gpus.numbered(options.gpus)
        gpu_source = "--gpus"
    elif options.gpus is not None:
        names, gpu_source = options.gpus, "--gpus"
    memory, ends_idle = min(memory, needs.MOST_BYTES), options.idle > 0
    capacity = WorkerCapacity(
        slots, max(cpus, slots), memory, names, options.resources, options.tags, ends_idle, len(hosts)
    )
    return Offer(capacity, devices.variable, _describe(capacity, memory_source, gpu_source), file)


def _find_cpus(environ: Mapping[str, str]) -> int:
    """Return the CPUs that are usable, no more than a batch system gives the job here."""
    found = usable_cpus()
    return min(found, batch_job.cpus(environ) or found)


def _describe(capacity: WorkerCapacity, memory_source: str, gpu_source: str) -> str:
    parts = [program.count(capacity.slots, "slot"), program.count(capacity.cpus, "CPU")]
    if capacity.nodes > 1:
        parts = [f"{parts[0]} on {capacity.nodes} nodes with {parts[1]} each"]
    if capacity.memory:
        source = "" if memory_source == "the machine" else f" ({memory_source})"
        parts.append(f"{needs.format_bytes(capacity.memory)} of memory{source}")
    if capacity.gpus:
        one = "GPU" if len(capacity.gpus) == 1 else "GPUs"
        parts.append(f"{one} {','.join(capacity.gpus)} ({gpu_source})")
    else:
        parts.append("no GPU" if gpu_source == "no driver" else f"no GPU ({gpu_source})")
    if capacity.resources:
        parts.append("resources " + ",".join(f"{name}={amount}" for name, amount in capacity.resources))
    if capacity.tags:
        parts.append("tags " + ",".join(capacity.tags))
    return ", ".join(parts)


def _parse_cpus(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= needs.MOST_CPUS):
        raise ValueError(f"{text!r} is no number of CPUs: give 1 or more")
    return int(text)


def _parse_memory(text: str) -> int:
    return needs.to_bytes("memory", text)


def _parse_gpus(text: str) -> int | tuple[str, ...]:
    """Parse a number of devices, or their names."""
    if text.isascii() and text.isdecimal():
        if int(text) > needs.MOST_GPUS:
            raise ValueError(
                f"{text!r} GPUs are too many: give {needs.MOST_GPUS} or less, or '{text},' for one device"
            )
        return int(text)
    parts = [part.strip() for part in text.removesuffix(",").split(",")]
    names = gpus.names_in(text.removesuffix(","))
    if len(names) < len(parts) or len(names) > needs.MOST_GPUS:
        raise ValueError(
            f"{text!r} names no GPUs: give a number such as 2, or names such as 0,1 or GPU-8932f937"
        )
    return names


def _parse_amounts(text: str) -> tuple[tuple[str, int], ...]:
    amounts: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([^=\s]+)=(\d+)\s*", part, re.ASCII)
        if match is None:
            raise ValueError(f"{part!r} is no amount of a resource: give NAME=N, such as licence=3")
        amounts[match[1]] = amounts.get(match[1], 0) + int(match[2])
    return needs.to_amounts("resources", amounts)


def _parse_hostfile(text: str) -> tuple[str, tuple[str, ...]]:
    """Parse the name of a file; returns it, and the hosts in it."""
    return os.path.abspath(text), hostfile.read(text)


def _parse_tags(text: str) -> tuple[str, ...]:
    return needs.to_tags("tags", [part.strip() for part in text.split(",")])
