"""The user's own directory and what makes it private. No process, no connection."""

import os
import stat
import threading

import pytest

from cw import userdir
from cw.net import address


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """A user's own directory that is not there yet."""
    path = tmp_path / "home"
    monkeypatch.setenv("CW_HOME", str(path))
    return path


def test_a_directory_that_others_may_read_is_refused(directory):
    directory.mkdir(mode=0o755)
    directory.chmod(0o755)
    for action in (userdir.make_home, address.find_master, lambda: address.write_address("node7", 7000)):
        with pytest.raises(PermissionError, match=f"0755.*chmod 700 {directory}"):
            action()
    directory.chmod(0o700)
    userdir.make_home()


def test_a_directory_of_another_user_is_refused(directory, monkeypatch):
    userdir.make_home()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionError, match="belongs to another user"):
        address.find_master()


def test_a_link_of_another_user_is_refused_and_an_own_one_followed(directory, tmp_path, monkeypatch):
    target = tmp_path / "scratch"
    target.mkdir(mode=0o700)
    directory.symlink_to(target)
    address.write_address("node7", 7000)
    assert (target / "address-default.json").exists()
    if os.geteuid() == 0:
        os.lchown(directory, 12345, 12345)
        with pytest.raises(PermissionError, match="belongs to another user"):
            address.find_master()


def test_a_file_in_the_place_of_the_directory_is_refused(directory):
    directory.write_text("")
    with pytest.raises(PermissionError, match="is no directory"):
        userdir.make_home()


def test_a_directory_that_cannot_be_made_is_told_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("CW_HOME", str(tmp_path / "missing" / "home"))
    with pytest.raises(PermissionError, match="set CW_HOME"):
        userdir.make_home()


def test_a_file_that_others_may_write_is_refused(directory):
    address.write_address("node7", 7000)
    (directory / "address-default.json").chmod(0o666)
    with pytest.raises(PermissionError, match="written by another user"):
        address.find_master()


def test_a_link_a_directory_or_a_pipe_in_the_place_of_a_file_is_refused(directory, tmp_path):
    userdir.make_home()
    other = tmp_path / "other.json"
    other.write_text("{}")
    (directory / "address-default.json").symlink_to(other)
    with pytest.raises(PermissionError, match="remove it"):
        address.find_master()
    (directory / "address-default.json").unlink()
    (directory / "address-default.json").mkdir()
    with pytest.raises(PermissionError, match="remove it"):
        address.find_master()
    (directory / "address-default.json").rmdir()
    os.mkfifo(directory / "address-default.json", 0o600)
    with pytest.raises(PermissionError, match="remove it"):
        address.find_master()


def test_the_lock_keeps_others_out():
    userdir.make_home()
    order = []

    def wait():
        with userdir.locked("test.lock"):
            order.append("other")

    with userdir.locked("test.lock"):
        other = threading.Thread(target=wait)
        other.start()
        other.join(0.05)
        order.append("first")
    other.join()
    assert order == ["first", "other"]


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_what_is_made_is_private_whatever_the_umask_is(directory, umask):
    old = os.umask(umask)
    try:
        userdir.make_home()
        userdir.write_private("file", b"content")
        with userdir.locked("lock"):
            pass
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (directory, *directory.iterdir())}
    assert modes == {"home": 0o700, "file": 0o600, "lock": 0o600}
