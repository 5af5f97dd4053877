"""The parts of a cluster on this machine: a master that listens on the loopback interface, and a worker of n slots."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

from cw import credential
from cw.launch import launcher, spawning
from cw.launch.launcher import Child, LaunchError, Lifeline
from cw.named_tuple import NamedTuple
from cw.net import address
from cw.net.sockets import listen_locally
from cw.payloads import hash_seed

RECORDS = "records"
"""Name of the file with what outlives a process that is master and worker."""


class Plan(NamedTuple):
    """The parts to start."""

    roles: list[str]
    slots: int
    port: int
    master_options: list[str]
    worker_options: list[str]
    is_one: bool = False
    """Master and worker are one process."""


def start(
    plan: Plan,
    logs: str,
    note: Callable[[str, Child], object],
    known_master: str = "",
    lifeline: Lifeline | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> str:
    """Start the parts in parallel and return the master's address when all are ready.

    `note(master, child)` is called for each, with the master's address, as soon as its process exists. `meanwhile` is
    called while they start.
    """
    launcher.occupy_standard_descriptors()
    children = []
    master = known_master or address.started_here()
    if "master" in plan.roles:
        listeners = _listen(plan.port, credential.load_or_make().fingerprint)
        master = address.join(*listeners["--listen-fd"].getsockname())
        options = [*plan.master_options, "--host", "127.0.0.1", "--no-address-file"]
        if plan.is_one:
            assert lifeline is not None
            children.append(_start_one(plan, logs, master, lifeline, listeners))
            note(master, children[0])
            try:
                meanwhile()
            except BaseException:
                os.close(children[0].ready)
                raise
        elif lifeline and "worker" in plan.roles:
            forked = spawning.spawn_both(
                _worker_options(plan, master), options, logs,
                lifeline=lifeline, listeners=listeners, environment=_worker_environment(plan, master),
            )  # fmt: skip
            note(master, forked.worker)
            try:
                meanwhile()
                children += [forked.wait_for_master(), forked.worker]
            except BaseException:
                forked.forget()
                raise
            note(master, children[0])
        else:
            children.append(spawning.spawn("master", options, logs, lifeline=lifeline, listeners=listeners))
            note(master, children[-1])
    if "worker" in plan.roles and len(children) < 2 and not plan.is_one:
        children.append(start_worker(plan, logs, master, lifeline))
        note(master, children[-1])
    launcher.wait_until_ready(children)
    return master or next((address.join(where.host, where.port) for where in address.find_master()), "")


def start_worker(plan: Plan, logs: str, master: str, lifeline: Lifeline | None) -> Child:
    """Start the worker, for the planned master or, if none is planned, for the one that runs already."""
    options, environment = _worker_options(plan, master), _worker_environment(plan, master)
    return spawning.spawn_worker(options, logs, lifeline=lifeline, environment=environment)


def start_one_again(plan: Plan, logs: str, master: str, lifeline: Lifeline) -> Child:
    """Start the one process of the planned cluster in place of one that has died. Raises LaunchError, OSError."""
    listeners = _listen(address.parse(master)[1] or 0, credential.load().fingerprint)
    return _start_one(plan, logs, master, lifeline, listeners)


def _start_one(
    plan: Plan, logs: str, master: str, lifeline: Lifeline, listeners: dict[str, socket.socket]
) -> Child:
    return spawning.spawn_one(
        _worker_options(plan, master), os.path.join(logs, RECORDS), logs,
        lifeline=lifeline, listeners=listeners, environment=_worker_environment(plan, master),
    )  # fmt: skip


def _worker_options(plan: Plan, master: str) -> list[str]:
    # A local cluster ends at once when it is stopped, unless the options say otherwise.
    options = ["--grace", "0", *plan.worker_options, "-n", str(plan.slots)]
    return [master, *options] if "master" in plan.roles else options


def _worker_environment(plan: Plan, master: str) -> dict[str, str]:
    """Return the worker's variables. Its runners have the PYTHONHASHSEED of the cluster if the user has set none, so
    the process that they are forked from must have it."""
    environment = dict(os.environ)
    if not hash_seed.of_this_process():
        with contextlib.suppress(credential.CredentialError):  # the worker reports it
            environment["PYTHONHASHSEED"] = credential.load().hash_seed()
    if master and "master" not in plan.roles:
        environment.setdefault("CW_MASTER", master)  # what the user has set takes precedence
    return environment


def _listen(port: int, fingerprint: str) -> dict[str, socket.socket]:
    """Return the master's listening sockets, by the option that passes each on. From here on peers may connect."""
    try:
        listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    except OSError as error:
        raise LaunchError(
            f"cannot listen on port {port} of 127.0.0.1 ({error.strerror}): choose another"
        ) from error
    local = listen_locally(listener.getsockname()[1], fingerprint)
    return {"--listen-fd": listener} | ({"--local-fd": local} if local else {})
