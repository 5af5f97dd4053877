"""Where systemd ends a user's processes at logout, and what keeps a run from that."""

import os

import pytest

from cw.launch import user_scope
from cw.launch.user_scope import SCOPE, Facts, decide


def test_a_scope_is_for_login_sessions_whose_processes_are_ended():
    assert decide(Facts()) == decide(Facts(True, False)) == decide(Facts(False, True)) == ([], "")
    assert decide(Facts(True, True, True)) == (list(SCOPE), "")


def test_without_lingering_the_user_hears_what_to_do():
    command, advice = decide(Facts(True, True, False))
    assert command == list(SCOPE) and "`loginctl enable-linger`" in advice


@pytest.mark.parametrize(
    ("lines", "is_of_login"),
    [
        ("0::/user.slice/user-1000.slice/session-3.scope\n", True),
        ("12:pids:/user.slice\n1:name=systemd:/user.slice/user-0.slice/session-c1.scope/x\n", True),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-r1.scope\n", False),
        ("0::/\n", False),
        ("", False),
    ],
)
def test_a_login_session_is_known_by_the_control_group(monkeypatch, lines, is_of_login):
    monkeypatch.setattr(user_scope, "_read", lambda path: lines)
    monkeypatch.setattr(user_scope.shutil, "which", lambda name: name)
    monkeypatch.setattr(user_scope, "_ask", lambda verb, what, *words: "no")
    assert user_scope.collect() == Facts(is_of_login=is_of_login)


def test_logind_is_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(user_scope, "_read", lambda path: "0::/user.slice/session-3.scope\n")
    (tmp_path / "systemd-run").write_text("#!/bin/sh\n")
    (tmp_path / "loginctl").write_text(
        "#!/bin/sh\ncase $1 in show-session) echo KillUserProcesses=yes;; *) echo Linger=yes;; esac\n"
    )
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    assert user_scope.collect() == Facts(True, True, True)
    (tmp_path / "loginctl").write_text("#!/bin/sh\nexit 1\n")
    assert user_scope.collect() == Facts(is_of_login=True)
