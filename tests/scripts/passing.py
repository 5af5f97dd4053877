"""In namespaces of its own (see test_sharing.py): a master here with a bounded link, and each worker in a network of
its own; they reach the master, and each other unless there are walls."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import programs
from conftest import wait_until
from test_sharing import look, value

import cw
from cw.master.policy.passing import WORKERS

LIMIT = 60.0
BITS = "160mbit"  # the master's link, per second
SIZE = 8_000_000


def run(*command, inside=None):
    enter = [] if inside is None else ["nsenter", f"--net=/proc/{inside}/ns/net"]
    subprocess.run([*enter, *map(str, command)], check=True)


def make_network(stack, has_walls):
    """A bridge with a machine for each worker: the pids of processes in these."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "addr", "add", "10.77.0.1/24", "dev", "br0")
    run("ip", "link", "set", "br0", "up")
    pids = []
    for number in range(WORKERS):
        there = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
        stack.callback(there.kill)
        wait_until(lambda pid=there.pid: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", LIMIT)
        run("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", there.pid)
        run("ip", "link", "set", f"v{number}", "master", "br0", "up")
        if has_walls:
            run("ip", "link", "set", f"v{number}", "type", "bridge_slave", "isolated", "on")
        run("ip", "addr", "add", f"10.77.0.{number + 2}/24", "dev", "eth0", inside=there.pid)
        run("ip", "link", "set", "eth0", "up", inside=there.pid)
        run("ip", "link", "set", "lo", "up", inside=there.pid)
        pids.append(there.pid)
    run("tc", "qdisc", "add", "dev", "br0", "root", "tbf", "rate", BITS, "burst", "256kb", "latency", "100ms")
    return pids


def sent():
    """Bytes that have left the master."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "br0":
            return int(figures.split()[8])
    raise ValueError("no br0")


def main(how):
    with contextlib.ExitStack() as stack:
        pids = make_network(stack, how == "walls")
        master = stack.enter_context(programs.Master())
        workers = [
            stack.enter_context(
                programs.Worker(
                    f"10.77.0.1:{master.port}",
                    is_awaited=False,
                    before=["nsenter", f"--net=/proc/{pid}/ns/net"],
                )
            )
            for pid in pids
        ]
        for worker in workers:
            worker.wait_for_event("worker.joined")
        executor = stack.enter_context(cw.ClusterExecutor(master.address))
        list(executor.map(look, [b"small"] * WORKERS, [0.3] * WORKERS))  # runners are there
        before, began = sent(), time.monotonic()
        data = cw.share(value(size=SIZE))
        seen = set()
        while len(seen) < WORKERS:
            assert time.monotonic() < began + LIMIT, [worker.err for worker in workers]
            seen |= {pid for pid, *_ in executor.map(look, [data] * WORKERS, [0.3] * WORKERS)}
        passed, seconds = sent() - before, time.monotonic() - began
        print(
            f"{WORKERS} workers, {SIZE / 1e6:.0f} MB: {passed / 1e6:.1f} MB left the master, {seconds:.1f} s"
        )
        if how == "walls":
            assert passed > WORKERS * SIZE
            assert any("worker.not_fetched" in worker.events for worker in workers)
        else:
            assert passed < 1.5 * SIZE
            assert not any("worker.not_fetched" in worker.events for worker in workers)
        print("all have it")


if __name__ == "__main__":
    main(sys.argv[1])
