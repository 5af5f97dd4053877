"""A process that outlives its program has a session of its own, reads nothing, and writes to its log."""

import os
import stat
import sys

import pytest
from conftest import wait_until

from cw.launch import out_of_reach, user_scope
from cw.launch.user_scope import Facts

SCRIPT = """
import os, sys
print(os.getsid(0) == os.getpid(), sys.stdin.read() == "", os.getcwd(), os.read(int(sys.argv[1]), 1))
print("err", file=sys.stderr)
"""


def test_it_runs_apart(tmp_path):
    read, write = os.pipe()
    os.write(write, b"x")
    process = out_of_reach.start(
        [sys.executable, "-c", SCRIPT, str(read)], str(tmp_path / "log"), cwd=str(tmp_path), pass_fds=[read]
    )
    wait_until(lambda: not process.is_alive())
    assert sorted((tmp_path / "log").read_text().splitlines()) == [f"True True {tmp_path} b'x'", "err"]
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600
    os.close(read)
    os.close(write)


def test_where_systemd_would_end_it_it_gets_a_scope_and_the_user_hears_of_lingering(
    tmp_path, monkeypatch, caplog
):
    (tmp_path / "systemd-run").write_text('#!/bin/sh\necho "$@" >&2\n')
    (tmp_path / "systemd-run").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(user_scope, "collect", lambda: Facts(True, True, False))
    process = out_of_reach.start(["sleep", "1"], str(tmp_path / "log"))
    wait_until(lambda: not process.is_alive())
    assert (tmp_path / "log").read_text() == "--user --scope --quiet --collect sleep 1\n"
    assert [record.event for record in caplog.records] == ["launch.ends_at_logout"]


def test_a_command_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OSError, match="no-such-program"):
        out_of_reach.start(["no-such-program"], str(tmp_path / "log"))
