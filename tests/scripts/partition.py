"""In namespaces of its own (see test_faults.py): a master and a worker here, a worker behind a pair of virtual
network cards; packets are dropped, and let through again."""

import contextlib
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jobs
import programs
from conftest import wait_until

import cw

LIMIT = 20.0
SILENCE = 1.0


def ip(*arguments, inside=None):
    enter = [] if inside is None else ["nsenter", f"--net=/proc/{inside}/ns/net"]
    subprocess.run([*enter, "ip", *arguments], check=True)


def address_of(card, inside=None):
    enter = [] if inside is None else ["nsenter", f"--net=/proc/{inside}/ns/net"]
    shown = subprocess.run(
        [*enter, "ip", "-o", "link", "show", card], check=True, capture_output=True, text=True
    )
    return shown.stdout.partition("link/ether ")[2].split()[0]


class Cards:
    """10.77.0.1 here and 10.77.0.2 there. Frames to a card that does not exist are packets dropped."""

    def __init__(self, there):
        self.there = there
        ip("link", "set", "lo", "up")
        ip("link", "add", "v1", "type", "veth", "peer", "name", "v2")
        ip("link", "set", "v2", "netns", str(there))
        ip("addr", "add", "10.77.0.1/24", "dev", "v1")
        ip("link", "set", "v1", "up")
        ip("addr", "add", "10.77.0.2/24", "dev", "v2", inside=there)
        ip("link", "set", "v2", "up", inside=there)
        ip("link", "set", "lo", "up", inside=there)
        self.mac = {"here": address_of("v1"), "there": address_of("v2", there)}
        self.let_through("both", True)

    def let_through(self, direction, is_open):
        nowhere = "02:00:00:00:00:99"
        if direction in ("both", "to the worker"):
            ip("neigh", "replace", "10.77.0.2", "lladdr", self.mac["there"] if is_open else nowhere,
               "dev", "v1", "nud", "permanent")  # fmt: skip
        if direction in ("both", "from the worker"):
            ip("neigh", "replace", "10.77.0.1", "lladdr", self.mac["here"] if is_open else nowhere,
               "dev", "v2", "nud", "permanent", inside=self.there)  # fmt: skip


def main(direction, directory):
    results = []
    with contextlib.ExitStack() as stack:
        there = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
        stack.callback(there.kill)
        wait_until(lambda: Path(f"/proc/{there.pid}/comm").read_text() == "sleep\n", LIMIT)
        cards = Cards(there.pid)
        master = stack.enter_context(programs.Master("--silence", SILENCE))
        inside = ["nsenter", f"--net=/proc/{there.pid}/ns/net"]
        far = stack.enter_context(
            programs.Worker(f"10.77.0.1:{master.port}", "-n", "2", "--silence", SILENCE, before=inside)
        )
        thread = stack.enter_context(
            cw.ClientThread(lambda jobid, n: results.append((jobid, n)), master.address)
        )
        for n in range(60):
            thread.submit(n, jobs.mark_and_return, directory, n, 0.15)
        wait_until(lambda: len(results) >= 4, LIMIT)
        near = stack.enter_context(programs.Worker(master.address))
        cut = time.monotonic()
        cards.let_through(direction, False)
        master.wait_for_event("master.worker_lost")
        far.wait_for_event("worker.master_gone")
        noticed = time.monotonic() - cut
        print(f"both have noticed after {noticed:.1f} s")
        assert noticed < SILENCE + 4
        wait_until(lambda: len(results) >= 12, LIMIT)  # the others go on
        cards.let_through(direction, True)
        healed = time.monotonic()
        far.wait_for_event("worker.joined", count=2)
        print(f"it is back {time.monotonic() - healed:.1f} s after healing")
        thread.wait(LIMIT)
        assert near.process.poll() is None
    ran = Counter(int(path.name.split()[0]) for path in Path(directory).iterdir())
    assert sorted(results) == [(n, n) for n in range(60)], results
    print(f"{sum(count > 1 for count in ran.values())} jobs ran twice")
    print("each job was delivered once")


if __name__ == "__main__":
    main(*sys.argv[1:])
