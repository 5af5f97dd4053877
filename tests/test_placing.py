"""Files that have come with a session, in a runner: processes that use one copy, and its end."""

import os
import py_compile
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from programs import ROOT

from cw.errors import EnvironmentMismatch
from cw.payloads import environment
from cw.payloads.environment import SCRATCH, Travelling
from cw.travel import packs, placing
from cw.travel.packs import HERE, Entry

MODULE, DATA = (
    Entry("/no/src", "lab/__init__.py", 0, 10**18, False),
    Entry(HERE, "data/a.csv", 0, 10**18, True),
)


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(placing, "_held", {})
    monkeypatch.setattr(placing, "_placed", None)


@pytest.fixture
def scratch(tmp_path):
    return tmp_path / "scratch" / "17"


def made(here, directory, path=("/no/src/.", None, "/else"), numbers=(1, 2)):
    bare = environment.load_environment(environment.dump_environment())
    files = {"lab": ["/no/src/lab/__init__.py", 5, 10**18, 7], "far": ["/else/far.py", 1, 1, 1]}
    return replace(
        bare,
        directory=str(directory),
        path=path,
        files=files,
        travelling=Travelling(str(here), list(numbers)),
    )


PAYLOADS = {1: packs.dump([MODULE], [b"X = 1"]), 2: packs.dump([DATA], [b"1,2"])}


def test_without_files_the_environment_is_that_of_the_client(scratch):
    bare = replace(made("/no", "/no"), travelling=None)
    assert placing.place(bare, {}.__getitem__, str(scratch)).environment is bare
    assert not scratch.parent.exists()


def test_they_are_written_once_and_stand_for_the_clients_directories(scratch, monkeypatch, tmp_path):
    placed = placing.place(made("/no", "/no"), PAYLOADS.__getitem__, str(scratch))
    found = placed.environment
    (copy,) = scratch.parent.glob("files-*[0-9a-f]")
    assert found.path == (f"{copy}/0", None, "/else") and found.directory == SCRATCH
    assert found.files == {
        "lab": [f"{copy}/0/lab/__init__.py", 5, 10**18, 7],
        "far": ["/else/far.py", 1, 1, 1],
    }
    module, data = copy / "0/lab/__init__.py", copy / "here/data/a.csv"
    assert module.read_text() == "X = 1" and module.stat().st_mtime_ns == 10**18
    assert module.stat().st_mode & 0o777 == 0o444 and data.stat().st_mode & 0o777 == 0o555
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for _ in range(2):
        placed.link()
    assert open("data/a.csv").read() == "1,2" and placing.without_links(["data", "new"]) == ["new"]


def test_in_a_workers_own_directory_modules_are_enough_but_data_gets_a_private_one(
    scratch, tmp_path, monkeypatch
):
    """It serves all sessions: a link of one must not be found by another."""
    monkeypatch.setenv(environment.OF_MACHINE, str(tmp_path))
    alone = placing.place(made("/no", "/no", numbers=[1]), PAYLOADS.__getitem__, str(scratch)).environment
    assert environment.directory_of(alone) == str(tmp_path)
    both = placing.place(made("/no", "/no"), PAYLOADS.__getitem__, str(scratch)).environment
    assert environment.directory_of(both) == SCRATCH
    (tmp_path / "here/data").mkdir(parents=True)
    (tmp_path / "here/data/a.csv").write_text(
        "1,2"
    )  # also where the machine has the client's files by chance
    alike = made(tmp_path / "here", tmp_path / "here", numbers=[2])
    assert placing.place(alike, PAYLOADS.__getitem__, str(scratch)).environment.directory == SCRATCH


def test_a_root_that_is_not_on_the_path_comes_onto_it_and_a_directory_that_is_there_is_kept(
    scratch, tmp_path
):
    placed = placing.place(made("/no", tmp_path, (None,), [1]), PAYLOADS.__getitem__, str(scratch))
    assert placed.environment.path[0] is None and placed.environment.path[1].endswith("/0")
    assert placed.environment.directory == str(tmp_path) and placed.links == []


def test_the_clients_own_directories_are_used_where_they_have_the_same_files(scratch, tmp_path):
    (tmp_path / "lab.py").write_text("X = 1")
    (tmp_path / "a.csv").write_text("1,2")
    status = (tmp_path / "lab.py").stat()
    entries = Entry(str(tmp_path), "lab.py", 5, status.st_mtime_ns, False), Entry(HERE, "a.csv", 3, 77, False)
    payload = packs.dump(entries, [b"X = 1", b"1,2"])
    asked = made(tmp_path, tmp_path, numbers=[1])
    assert placing.place(asked, lambda number: payload, str(scratch)).environment is asked
    in_scratch = replace(asked, directory=SCRATCH)  # where the data are not
    assert placing.place(in_scratch, lambda number: payload, str(scratch)).links
    (tmp_path / "a.csv").write_text("1,3")
    assert placing.place(asked, lambda number: payload, str(scratch)).environment.directory == SCRATCH


def test_a_machine_with_a_directory_of_its_own_keeps_it_unless_there_are_data(scratch, tmp_path, monkeypatch):
    monkeypatch.setenv("CW_WORKDIR", str(tmp_path))
    place = placing.place(made("/no", "/no", numbers=[1]), PAYLOADS.__getitem__, str(scratch)).environment
    assert environment.directory_of(place) == str(tmp_path)
    place = placing.place(made("/no", "/no"), PAYLOADS.__getitem__, str(scratch)).environment
    assert environment.directory_of(place) == SCRATCH
    chosen = replace(made("/no", tmp_path / "mine", numbers=[1]), is_chosen=True)
    (tmp_path / "mine").mkdir()
    place = placing.place(chosen, PAYLOADS.__getitem__, str(scratch)).environment
    assert environment.directory_of(place) == str(tmp_path / "mine")


def test_what_cannot_be_written_is_the_machines_fault(scratch):
    scratch.parent.write_text("no directory")
    with pytest.raises(EnvironmentMismatch, match="cannot be written on .*Not a directory"):
        placing.place(made("/no", "/no"), PAYLOADS.__getitem__, str(scratch))


def test_a_later_copy_takes_over_what_has_not_changed_with_its_compiled_code(scratch):
    other = Entry("/no/src", "lab/b.py", 0, 10**18, False)
    names = {
        1: packs.dump([MODULE, other], [b"X = 1", b"Y = 1"]),
        2: packs.dump([MODULE, other], [b"X = 1", b"Y = 2"]),
    }
    places = []
    for number in names:
        placed = placing.place(made("/no", "/no", numbers=[number]), names.__getitem__, str(scratch))
        places.append(Path(placed.environment.path[0]) / "lab")
        if number == 1:
            for name in "__init__.py", "b.py":
                py_compile.compile(str(places[0] / name))
    first, second = places
    assert first != second and (second / "b.py").read_text() == "Y = 2"
    assert (first / "__init__.py").samefile(second / "__init__.py") and not (first / "b.py").samefile(
        second / "b.py"
    )
    assert [path.name.partition(".")[0] for path in (second / "__pycache__").iterdir()] == ["__init__"]


USER = """
import os, sys
from cw.travel import packs, placing
from cw.travel.packs import Entry
entries = [Entry("/no/src", f"lab/m{n}.py", 0, 10**18, False) for n in range(300)]
files = list(packs.load(packs.dump(entries, [b"X"] * 300)))
copy = placing._copy_of(sys.argv[1], files, placing._roots(files))
assert len(os.listdir(copy + "/0/lab")) == 300
print("has it", flush=True)
sys.stdin.read()
"""


def test_processes_share_a_copy_which_is_removed_when_the_last_has_ended_however(scratch):
    copy = scratch.parent / "files-abc"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    users = [
        subprocess.Popen([sys.executable, "-c", USER, copy], env=environment, stdin=-1, stdout=-1)
        for _ in range(4)
    ]
    try:
        assert [user.stdout.readline() for user in users] == [b"has it\n"] * 4
        inode = copy.stat().st_ino
        for user in users[1:]:
            user.kill()
            user.wait()
            placing.sweep(str(scratch.parent))
            assert copy.stat().st_ino == inode
        assert sorted(os.listdir(scratch.parent)) == ["files-abc", "files-abc.lock", "files-abc.making"]
    finally:
        for user in users:
            user.kill()
            user.wait()
            user.stdin.close()
            user.stdout.close()
    placing.sweep(str(scratch.parent))
    assert not copy.exists()
    placing.sweep("/no/such/directory")


def test_an_error_of_an_import_says_what_to_do(scratch):
    fast = packs.dump([Entry("/no/src", "lab/fast.cpython-27m-mips.so", 0, 1, False)], [b""])
    placing.place(made("/no", "/no", numbers=[1]), lambda number: fast, str(scratch))
    built = ModuleNotFoundError("No module named 'lab.fast'", name="lab.fast")
    placing.explain(built)
    assert "lab/fast.cpython-27m-mips.so was compiled for another platform or Python" in str(built)
    bought = ModuleNotFoundError("No module named 'bought.part'", name="bought.part")
    placing.explain(bought)
    assert str(bought).startswith("No module named 'bought.part' (") and "modules=['bought']" in str(bought)
    for other in ImportError("cannot import name", name="lab"), ModuleNotFoundError("odd"), OSError("no"):
        before = str(other)
        placing.explain(other)
        assert str(other) == before
