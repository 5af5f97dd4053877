"""The command `cw top`, and its snapshots of a real cluster."""

import os
import pty
import queue
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import wait_until
from programs import Master, free_port

import cw
from cw.cli.top import RANGES
from cw.observer.model import Snapshot
from cw.top.live import LiveSource
from cw.top.source import Away

ROOT = Path(cw.__file__).parent.parent


def run(*arguments, code="", **environment):
    """`cw top` to its end, without a terminal; `code` runs before it."""
    return subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; {code or 'pass'}\nfrom cw.cli.main import main\nmain()",
            "top",
            *arguments,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


WITHOUT = "[sys.modules.__setitem__(name, None) for name in ('textual', 'rich', 'textual_serve', 'aiohttp')]"


def sleep(seconds):
    time.sleep(seconds)


class Updates:
    """What a source has told, and the first one that fits."""

    def __init__(self, source):
        self._all = queue.Queue()
        source.start(self._all.put)

    def first(self, fits):
        end = time.monotonic() + 30
        while True:
            update = self._all.get(timeout=end - time.monotonic())
            if fits(update):
                return update


def test_a_running_cluster_is_seen_and_a_job_is_killed(cluster):
    """And `--once` prints it without Textual."""
    source, watcher = LiveSource(cluster.master, True), LiveSource(cluster.master, False)
    updates = Updates(source)
    with cw.ClusterExecutor(host=cluster.master) as executor:
        future = executor.submit(sleep, 60)
        snapshot = updates.first(lambda u: isinstance(u, Snapshot) and u.running)
        job = snapshot.running[0]
        assert job.function == "sleep" and snapshot.where == cluster.master
        once = run(cluster.master, "--once", code=WITHOUT, COLUMNS="80")
        assert once.returncode == 0 and once.stderr == ""
        assert re.search(r"^  sleep +#\d+ ", once.stdout, re.MULTILINE)
        with pytest.raises(PermissionError):
            watcher.stop_job(job.session, job.number)
        with pytest.raises(PermissionError):
            watcher.drain(job.worker)
        source.stop_job(job.session, job.number)
        with pytest.raises(cw.JobStopped):
            future.result(timeout=30)
        source.drain(snapshot.workers[0].key)
        updates.first(lambda u: isinstance(u, Snapshot) and not u.totals.slots)
    source.close()
    watcher.close()


def test_a_master_that_ends_is_away_and_the_next_one_is_found():
    port = free_port()
    source = LiveSource(f"localhost:{port}", True)
    updates = Updates(source)
    assert "Connection refused" in updates.first(lambda u: isinstance(u, Away)).why
    with pytest.raises(OSError, match="no master"):
        source.stop_job("0" * 16, 1)
    for _ in range(2):
        with Master("--port", port):
            updates.first(lambda u: isinstance(u, Snapshot))
        updates.first(lambda u: isinstance(u, Away))
    source.close()


def test_a_package_that_is_missing_is_named_with_what_to_type():
    for arguments, package in ((), "textual"), (("--web",), "textual"):
        found = run(*arguments, code=WITHOUT.replace("'rich', ", ""))
        assert found.returncode == 1 and found.stdout == ""
        assert f"{package} is not installed" in found.stderr and "-m pip install 'textual>=" in found.stderr
        assert found.stderr.count("\n") == 1


def test_the_ranges_of_versions_are_those_of_the_extras():
    setup = (ROOT / "setup.py").read_text()
    assert f'"top": ["textual{RANGES["textual"]}"]' in setup
    for name, versions in RANGES.items():
        assert f'"{name}{versions}"' in setup


@pytest.mark.parametrize(
    "arguments, word",
    [(("--port", "1"), "--web"), (("--control",), "--web"), (("--web", "--once"), "either"), (("--port", "x"), "port"),
     (("--web", "--public-url", "https://h/"), "--port"), (("localhost:99999",), "port"), ((), "no terminal"),
     (("localhost:1", "--once"), "no master answers")],
)  # fmt: skip
def test_a_mistake_is_one_line(arguments, word):
    pytest.importorskip("textual")
    found = run(*arguments)
    assert found.returncode in (1, 2) and word in found.stderr and found.stderr.count("\n") == 1


def test_control_c_ends_it_at_a_terminal():
    pytest.importorskip("textual")
    ours, its = pty.openpty()
    command = [
        sys.executable,
        "-c",
        "from cw.cli.main import main; main()",
        "top",
        f"localhost:{free_port()}",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm-256color",
        "COLUMNS": "80",
        "LINES": "24",
    }
    process = subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True
    )
    os.close(its)
    seen = b""
    while b"Connection refused" not in seen:
        seen += os.read(ours, 65536)
    os.write(ours, b"\x03")

    def has_ended():
        try:
            os.read(ours, 65536)
        except OSError:  # its end is closed
            pass
        return process.poll() is not None

    wait_until(has_ended)
    os.close(ours)
    assert process.returncode == 0
