"""What is kept of a whole script's run, and what is found out of it: without a process."""

import os
import time

import pytest

from cw.runs import names
from cw.runs.names import RunError
from cw.scripts import kept_output, places, status
from cw.scripts.folder import ScriptFolder
from cw.scripts.kept_output import OutputFile, Reader
from cw.scripts.script import LOST, RUNS, Outcome, Place, Script, named_after, shell_status


def script(name="crunch", **fields):
    given = {"words": ["a dir/crunch.py", "7"], "python": "/opt/python", "directory": "/data", "created": 5.0}
    return Script(name=name, **{"host": "elsewhere", **given, **fields})


@pytest.fixture
def folder():
    name, path = names.claim(None, "crunch.py", lambda path: True, is_script=True)
    folder = ScriptFolder(name)
    assert folder.path == path
    folder.write(script())
    return folder


def test_a_script_is_run_by_its_python_and_shown_as_it_was_typed():
    assert script().command() == ["/opt/python", "-u", "a dir/crunch.py", "7"]
    assert script().as_typed() == "'a dir/crunch.py' 7"


@pytest.mark.parametrize(
    ("words", "name"),
    [(["/x/crunch.v2.py", "a"], "crunch.v2"), (["-m", "lab.crunch", "a"], "crunch"), (["go"], "go")],
)
def test_a_run_is_named_after_its_script(words, name):
    assert names.default_name(named_after(words)) == name


@pytest.mark.parametrize(("returncode", "shown"), [(0, 0), (7, 7), (-9, 137), (-15, 143)])
def test_an_exit_status_is_the_one_that_a_shell_shows(returncode, shown):
    assert shell_status(returncode) == shown


def test_what_is_written_is_read_again_and_is_private(folder):
    folder.write(Place("n1", "boot", "12 34", 17, "cw-run-crunch-1", "east"))
    folder.write(Outcome("ended", 3, "how", 1.5, 2.5))
    again = ScriptFolder("crunch")
    assert again.script() == script()
    assert again.place() == Place("n1", "boot", "12 34", 17, "cw-run-crunch-1", "east")
    assert again.outcome() == Outcome("ended", 3, "how", 1.5, 2.5)
    assert {os.stat(folder.file(name)).st_mode & 0o777 for name in os.listdir(folder.path)} == {0o600}


def test_a_request_is_taken_once(folder):
    assert not folder.take_request("cancel")
    folder.request("cancel")
    assert [folder.take_request("cancel"), folder.take_request("cancel")] == [True, False]


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"name": "x"}', b'{"unknown": 1}'])
def test_a_damaged_run_is_named_and_no_traceback(folder, text):
    with open(folder.file("script.json"), "wb") as file:
        file.write(text)
    with pytest.raises(RunError, match="'crunch'.*script.json is damaged"):
        status.look(folder.path)


def test_a_run_without_its_file_is_named(tmp_path):
    with pytest.raises(RunError, match="'nothing'.*script.json is missing"):
        status.look(str(tmp_path / "nothing"))


# --- output ---


def test_output_is_read_from_its_beginning_and_then_as_it_comes(tmp_path):
    path = str(tmp_path / "output")
    reader = Reader(path)
    assert b"".join(reader.read()) == b""
    file = OutputFile(path)
    file.write(b"one\n")
    assert b"".join(reader.read()) == b"one\n"
    file.write(b"two\n")
    file.write(b"thr")
    assert b"".join(reader.read()) == b"two\nthr"
    assert b"".join(Reader(path).read()) == b"one\ntwo\nthr"


def test_output_is_bounded_and_its_end_is_what_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_output, "FILE_BYTES", 100)
    path = str(tmp_path / "output")
    file, reader = OutputFile(path), Reader(path)
    read, written = b"", b""
    for number in range(100):
        line = b"line %d\n" % number
        file.write(line)
        written += line
        if number % 7 == 0:
            read += b"".join(reader.read())
    read += b"".join(reader.read())
    assert read == written  # who reads along misses nothing
    assert (
        os.listdir(tmp_path) and sum(os.stat(tmp_path / name).st_size for name in os.listdir(tmp_path)) < 250
    )
    late = b"".join(Reader(path).read())
    assert written.endswith(late) and len(late) > 100


# --- who is gone without a word ---


def test_a_run_whose_host_is_gone_is_lost_and_noted_with_the_last_words(folder):
    here = Place(os.uname().nodename, places.launcher.boot_id(), "999999999 1")
    folder.write(here)
    folder.write(Outcome(RUNS, started=5.0))
    with open(folder.file("host.log"), "w") as file:
        file.write("Traceback ...\nMemoryError\n\n")
    found = status.look(folder.path)
    assert (found.phase, found.exit_status, found.how) == ("lost", 137, "its host died: MemoryError")
    assert found.is_over and "crunch was lost (process 999999999 on " in found.sentence()
    assert folder.outcome().phase == LOST


def test_a_run_of_before_the_machine_was_restarted_is_lost(folder):
    folder.write(Place(os.uname().nodename, "another boot", places.processes.identity(os.getpid())))
    folder.write(Outcome(RUNS, started=5.0))
    assert status.look(folder.path).how == f"{os.uname().nodename} was restarted meanwhile"


def test_a_run_on_another_machine_is_there_as_long_as_it_gives_signs_of_life(folder):
    folder.write(Place("another", "boot", "12 34"))
    folder.write(Outcome(RUNS, started=time.time() - 125))
    folder.touch()
    assert status.look(folder.path).sentence() == "crunch has run for 2 min (process 12 on another)"
    long_ago = time.time() - 2 * places.SILENT_SECONDS
    os.utime(folder.file("alive"), (long_ago, long_ago))
    found = status.look(folder.path)
    assert found.phase == "lost" and "no sign of life from another for 600 s" in found.how
    folder.touch()  # only its machine can be certain
    assert status.look(folder.path).phase == "runs"


def test_a_run_that_was_never_started_does_not_wait_for_ever(folder):
    folder.write(script(host=os.uname().nodename, created=time.time()))
    assert status.look(folder.path).phase == "waits"
    folder.write(script(host=os.uname().nodename, created=time.time() - 2 * places.START_SECONDS))
    assert "was never started" in status.look(folder.path).how


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (Outcome("ended", 0, "", 10.0, 22.0), "crunch has ended after 12 s with exit status 0"),
        (Outcome("ended", 137, "killed by SIGKILL", 10.0, 22.0),
         "crunch has ended after 12 s with exit status 137: killed by SIGKILL"),
        (Outcome("cancelled", 143, "cancelled", 10.0, 22.0), "crunch was cancelled after 12 s with exit status 143"),
    ],
)  # fmt: skip
def test_the_end_of_a_run_is_one_sentence(folder, outcome, sentence):
    folder.write(outcome)
    assert status.look(folder.path).sentence() == sentence
