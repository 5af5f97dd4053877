"""A snapshot in Prometheus' text format, for the textfile collector of its node_exporter.

Snapshot ---> text ---> write: a temporary file, then a rename ---> node_exporter ---> Prometheus
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cw.observer.model import FunctionStatus, Snapshot

Labels = dict[str, str]


class Metric(NamedTuple):
    """A metric: its name, type and help, and its values with their labels."""

    name: str
    kind: str
    help: str
    values: Sequence[tuple[Labels, float]]


def text(snapshot: Snapshot | None) -> str:
    """Return the metrics of a snapshot. None: no master answers."""
    metrics = [Metric("cw_up", "gauge", "1 if the master answers.", [({}, snapshot is not None)])]
    if snapshot is not None:
        metrics += [
            *_of_cluster(snapshot),
            *_of_functions(snapshot),
            *_of_shapes(snapshot),
            *_of_hosts(snapshot),
        ]
    return "".join(line + "\n" for metric in metrics if metric.values for line in _lines(metric))


def write(path: str, content: str) -> None:
    """Replace the file atomically; other users may read it. Raises OSError."""
    directory, name = os.path.split(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _of_cluster(snapshot: Snapshot) -> Iterator[Metric]:
    totals, master = snapshot.totals, snapshot.master
    info = {"version": master.version, "host": master.host}
    yield Metric("cw_master_info", "gauge", "The master, with its version and host.", [(info, 1)])
    yield Metric(
        "cw_master_start_time_seconds", "gauge", "Start of the master, since 1970.", [({}, snapshot.at - master.age)]
    )  # fmt: skip
    for name, count in (("clients", totals.clients), ("workers", totals.workers), ("hosts", totals.hosts)):
        yield Metric(f"cw_{name}", "gauge", f"Number of {name}.", [({}, count)])
    slots = [({"state": "busy"}, totals.busy), ({"state": "idle"}, max(0, totals.slots - totals.busy))]
    yield Metric("cw_slots", "gauge", "Slots of connected workers.", slots)
    capacity = totals.capacity
    yield Metric("cw_cpus", "gauge", "CPUs of connected workers.", _taken(capacity.cpus, capacity.cpus_used))
    if capacity.gpus:
        yield Metric(
            "cw_gpus", "gauge", "GPUs of connected workers.", _taken(capacity.gpus, capacity.gpus_used)
        )
    if capacity.memory is not None:
        memory = _taken(capacity.memory, capacity.memory_used)
        yield Metric("cw_memory_bytes", "gauge", "Memory of connected workers that jobs can ask for.", memory)
    ended = [({"result": "done"}, totals.done), ({"result": "failed"}, totals.failed)]
    yield Metric("cw_jobs_ended_total", "counter", "Jobs that have ended since the master's start.", ended)


def _taken(total: float, used: float) -> list[tuple[Labels, float]]:
    return [({"state": "used"}, used), ({"state": "free"}, max(0, total - used))]


def _of_shapes(snapshot: Snapshot) -> Iterator[Metric]:
    jobs: list[tuple[Labels, float]] = []
    for one in snapshot.shapes:
        labels = {"needs": one.needs, "python": one.python}
        jobs += [({**labels, "state": "waiting"}, one.waiting), ({**labels, "state": "running"}, one.running)]
    yield Metric("cw_shape_jobs", "gauge", "Jobs that wait or run, by what they need.", jobs)


def _of_functions(snapshot: Snapshot) -> Iterator[Metric]:
    """Make the metrics by function and program. Clients of one program are summed up."""
    programs = {client.session: client.program for client in snapshot.clients}
    groups: dict[tuple[str, str], list[FunctionStatus]] = {}
    for one in snapshot.functions:
        groups.setdefault((one.name, programs.get(one.session, "")), []).append(one)
    jobs: list[tuple[Labels, float]] = []
    durations: list[tuple[Labels, float]] = []
    left: list[tuple[Labels, float]] = []
    for (name, program), group in groups.items():
        labels = {"function": name, "program": program}
        jobs.append(({**labels, "state": "waiting"}, sum(one.waiting for one in group)))
        jobs.append(({**labels, "state": "running"}, sum(one.running for one in group)))
        most = max(group, key=lambda one: one.done + one.failed)
        for quantile, value in (("0.5", most.median_seconds), ("0.95", most.p95_seconds)):
            if value is not None:
                durations.append(({**labels, "quantile": quantile}, value))
        times = [one.seconds_left for one in group if one.seconds_left is not None]
        if times:
            left.append((labels, max(times)))
    yield Metric("cw_jobs", "gauge", "Jobs that wait or run.", jobs)
    yield Metric("cw_job_duration_seconds", "summary", "Durations of jobs that ended lately.", durations)
    yield Metric("cw_time_left_seconds", "gauge", "Estimated time until the open jobs have ended.", left)


def _of_hosts(snapshot: Snapshot) -> Iterator[Metric]:
    hosts = [host for host in snapshot.hosts if not host.host.endswith(" more hosts")]
    slots = [({"host": one.host, "state": "busy"}, one.busy) for one in hosts]
    slots += [({"host": one.host, "state": "idle"}, max(0, one.slots - one.busy)) for one in hosts]
    yield Metric("cw_host_slots", "gauge", "Slots by host.", slots)
    cpus = [({"host": one.host, "state": "used"}, one.capacity.cpus_used) for one in hosts]
    cpus += [
        ({"host": one.host, "state": "free"}, one.capacity.cpus - one.capacity.cpus_used) for one in hosts
    ]
    yield Metric("cw_host_cpus", "gauge", "CPUs by host.", cpus)
    loads = [({"host": one.host}, one.load) for one in hosts if one.load is not None]
    yield Metric("cw_host_load1", "gauge", "Load average of the host over 1 minute.", loads)
    memories = [({"host": one.host}, one.memory) for one in hosts if one.memory is not None]
    yield Metric("cw_host_runner_memory_bytes", "gauge", "Resident memory of the host's runners.", memories)


def _lines(metric: Metric) -> Iterable[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for labels, value in metric.values:
        inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
        yield f"{metric.name}{{{inner}}} {float(value)!r}" if inner else f"{metric.name} {float(value)!r}"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
