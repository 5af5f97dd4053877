"""The folder of a run: what is in it is whole or not there, is the user's alone, and says what is wrong with it."""

import os
import stat
import threading

import pytest

from cw.errors import DetachError
from cw.runs.folder import ENDED, Description, RunFolder, RunState


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "sweep.cw" / "runs" / "sweep")
    folder.create(Description("sweep", str(tmp_path / "sweep.cw"), "1f", "secret", argv=["sweep.py", "7"]))
    return folder


def test_a_run_is_read_as_it_was_described(folder):
    assert folder.exists() and folder.name == "sweep"
    assert folder.description() == Description(
        "sweep", folder.description().store, "1f", "secret", argv=["sweep.py", "7"]
    )
    folder.change(master="node7:5494")
    assert folder.description()[2:5] == ("1f", "secret", "node7:5494")


def test_all_is_the_users_alone(folder):
    folder.write_state(RunState())
    folder.request("cancel")
    assert stat.S_IMODE(os.stat(folder.path).st_mode) == 0o700
    modes = {name: stat.S_IMODE(os.stat(folder.place(name)).st_mode) for name in os.listdir(folder.path)}
    assert modes == dict.fromkeys(("run.json", "nonce", "state.json", "request-cancel"), 0o600)


def test_a_state_is_new_until_one_is_written(folder):
    assert folder.state() == RunState() and not folder.state().is_over
    folder.write_state(RunState(ENDED, "node7", 4711, calls=9, done=8, failed=1, text="x"))
    assert folder.state()._replace(written=0.0) == RunState(
        ENDED, "node7", 4711, calls=9, done=8, failed=1, text="x"
    )
    assert folder.state().written > 0 and folder.state().is_over


def test_readers_see_whole_states_only(folder):
    seen, is_over = set(), threading.Event()

    def read():
        while not is_over.is_set():
            state = folder.state()
            seen.add(state.calls - state.done)

    reader = threading.Thread(target=read)
    folder.write_state(RunState(calls=1, done=0))
    reader.start()
    for number in range(100):
        folder.write_state(RunState(calls=number + 1, done=number))
    is_over.set()
    reader.join()
    assert seen == {1}


def test_requests_are_there_until_they_are_withdrawn(folder):
    assert folder.requests() == set()
    folder.request("cancel")
    folder.request("cancel")
    assert folder.requests() == {"cancel"}
    folder.withdraw("cancel")
    folder.withdraw("cancel")
    assert folder.requests() == set()


def test_of_many_that_make_a_file_one_does(folder):
    made = []
    threads = [
        threading.Thread(target=lambda n=n: made.append((folder.make("decision", b"%d" % n), n)))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ((_, winner),) = [each for each in made if each[0]]
    assert folder.read("decision") == b"%d" % winner
    assert sorted(os.listdir(folder.path)) == ["decision", "nonce", "run.json"]


def test_fields_of_a_later_version_are_passed_over(folder):
    folder.write("state.json", b'{"phase": "ended", "calls": 3, "colour": "blue"}')
    assert folder.state() == RunState(ENDED, calls=3)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"calls": "many"}', b'{"phase": 7}', b"null"])
def test_a_damaged_file_is_named_with_what_to_do(folder, text):
    folder.write("state.json", text)
    with pytest.raises(DetachError, match=r"state\.json is damaged .*cw runs forget sweep"):
        folder.state()


def test_a_folder_without_a_run_says_so(tmp_path):
    folder = RunFolder(tmp_path)
    assert not folder.exists()
    with pytest.raises(DetachError, match="there is no run in .*cw runs list"):
        folder.description()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_says_why(folder):
    os.chmod(folder.path, 0o500)
    with pytest.raises(DetachError, match="cannot be written: Permission denied"):
        folder.request("cancel")
