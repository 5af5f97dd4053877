"""A script that hands its run over, and its steward: at a step that is named, one of the processes is killed.

    handed_over.py script FOLDER      the script: calls `work` for each of CALLS, and hands them over
    handed_over.py again FOLDER       the same calls once more, to their end
    handed_over.py steward FOLDER     a steward

KILL=WHO:AT:FUNCTION:WHEN:WHOM, as `steward:cw.detached.recorder:Recorder.put:before:master`: as the process WHO enters
FUNCTION of the module AT (or returns from it), the process in the file `WHOM.pid` is killed.
"""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cw

CALLS, LATE = 12, 6
"""Number of calls; and of those that run before it is decided who owns the run. The others wait for that, and while
there is a file `hold`."""


def work(n, seconds, directory):
    descriptor = os.open(Path(directory, f"ran-{n}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"(")
    end = time.monotonic() + 30
    while n >= LATE and time.monotonic() < end:
        if list(Path(directory).rglob("decision-*")) and not Path(directory, "hold").exists():
            break
        time.sleep(0.02)
    print("works on", n)
    time.sleep(seconds)
    os.write(descriptor, b")")
    if n == 7:
        raise ValueError("seven")
    return Square(n) if n == CALLS - 1 else n * n


class Square:
    def __init__(self, n):
        self.value = n * n


def arm(who, directory):
    """Kill a process at the step that KILL names, once."""
    there, module, function, when, whom = (os.environ.get("KILL") or "::::").split(":")
    if there != who:
        return
    owner = importlib.import_module(module)
    *path, name = function.split(".")
    for part in path:
        owner = getattr(owner, part)
    original = getattr(owner, name)

    def kill():
        if not os.path.exists(done := os.path.join(directory, "killed")):
            Path(done).touch()
            os.kill(int(Path(directory, f"{whom}.pid").read_text()), signal.SIGKILL)

    def armed(*args, **kwargs):
        if when == "before":
            kill()
        found = original(*args, **kwargs)
        if when == "after":
            kill()
        return found

    setattr(owner, name, armed)


def start_steward(folder):
    with open(folder.place("steward.log"), "ab") as log:
        subprocess.Popen(
            [sys.executable, __file__, "steward", folder.path], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def main(role, path):
    from cw.runs.folder import Description, RunFolder

    folder = RunFolder(path)
    directory = Path(path).parent.parent.parent
    if role == "steward":
        from cw.detached import steward

        Path(directory, "steward.pid").write_text(str(os.getpid()))
        sys.argv = [sys.argv[0], path]
        arm(role, directory)
        sys.exit(steward.main())
    store = str(directory / "sweep.cw")
    with cw.ClusterExecutor(os.environ["MASTER"], store=store) as executor:
        calls = [executor.submit(work, n, float(os.environ["SECONDS"]), str(directory)) for n in range(CALLS)]
        if role == "again":
            print([None if call.exception() else call.result() for call in calls])
            return
        from cw.client.session.handover import Handover
        from cw.runs.handing_over import hand_over

        Path(directory, "script.pid").write_text(str(os.getpid()))
        arm(role, directory)
        calls[1].result()
        folder.create(Description("sweep", store, master=os.environ["MASTER"]))
        try:
            hand_over(Handover(executor._session), folder, start_steward)
            print("handed over")
        except cw.DetachError as error:
            print("kept:", error)


if __name__ == "__main__":
    main(*sys.argv[1:])
