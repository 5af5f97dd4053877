"""The choice of files that travel."""

import importlib
import os
import sys

import pytest

from cw.travel import choice
from cw.travel.packs import HERE


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory of a program, on `sys.path`, with a package and what lies around in such directories."""
    for name in (
        "lab/__init__.py", "lab/sub/deep.py", "lab/table.json", "lab/__pycache__/deep.pyc", "lab/.git/HEAD",
        "lab/venv/pyvenv.cfg", "lab/env/pyvenv.cfg", "lab/env/x.py", "alone.py", "notes.txt", "spaces/part/one.py",
        "data/a.csv", "data/b/c.csv", "data/.cache/x", "outside/other.py",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "lab/__init__.py").write_text("")
    (tmp_path / "outside/other.py").write_text("")
    (tmp_path / "data/again").symlink_to(tmp_path / "data")
    (tmp_path / "data/nothing").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "data/pipe")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    yield tmp_path
    for name in ("lab", "alone", "spaces", "other"):
        sys.modules.pop(name, None)


def chosen(here, names=(), is_all=False, files=()):
    return {each.path for each in choice.choose(tuple(names), is_all, files, str(here))}


LAB = {"lab/__init__.py", "lab/sub/deep.py", "lab/table.json"}


def test_a_named_module_travels_with_its_whole_package_and_nothing_that_lies_around_in_it(here):
    assert choice.check_modules(["lab.sub.deep", "alone", "alone"]) == ("lab", "alone")
    assert chosen(here, ["lab"]) == LAB
    assert chosen(here, ["alone"]) == {"alone.py"}
    assert chosen(here, ["spaces"]) == {"spaces/part/one.py"}  # a package without __init__.py
    (entry,) = choice.choose(("alone",), False, (), str(here))
    assert entry.root == str(here) and entry.size == len("alone.py") and entry.top == "alone"


def test_all_are_those_beside_the_program_and_those_that_are_loaded(here, monkeypatch):
    found = chosen(here, is_all=True)
    assert found >= LAB | {"alone.py"} and not found & {"notes.txt", "data/a.csv", "outside/other.py"}
    assert "spaces/part/one.py" not in found  # no package, and not loaded
    monkeypatch.setattr(sys, "path", [str(here / "outside"), *sys.path])
    importlib.import_module("other")
    roots = {each.path: each.root for each in choice.choose((), True, (), str(here))}
    assert roots["other.py"] == str(here / "outside")
    assert not any(path.startswith(("cw/", "pytest/", "json/")) for path in roots)


def test_data_files_travel_by_their_path_from_the_working_directory(here):
    files = choice.check_files(["data/", here / "notes.txt", "./notes.txt"], None, "scratch")
    assert files == ("data", "notes.txt")
    found = choice.choose((), False, files, str(here))
    assert {each.path for each in found} == {"data/a.csv", "data/b/c.csv", "notes.txt"}
    assert {each.root for each in found} == {HERE}


def test_nothing_is_chosen_unless_it_is_asked_for(here):
    assert choice.check_modules(None) is None and choice.check_modules(True) is True
    assert choice.check_modules([]) is choice.check_modules(False) is False
    assert chosen(here) == set() and choice.check_files(None, None, "scratch") == ()


@pytest.mark.parametrize(
    "modules, error, text",
    [
        ("lab", TypeError, r"a list of names, such as \['mylab'\]"),
        ([3], TypeError, "names of modules, not 3"),
        (["no_such_lab"], ModuleNotFoundError, "'no_such_lab', which cannot be imported here"),
        (["pytest"], ValueError, "installed here .* Install it on the workers' machines"),
        (["json"], ValueError, "only your own modules travel"),
        (["sys"], ValueError, "only your own modules travel"),
        (["cw"], ValueError, "only your own modules travel"),
    ],
)
def test_modules_that_cannot_travel_are_refused(here, modules, error, text):
    with pytest.raises(error, match=text):
        choice.check_modules(modules)


@pytest.mark.parametrize(
    "files, error, text",
    [
        ("data", TypeError, "a list of paths"),
        ([3], TypeError, "must be paths, not 3"),
        (["../x"], ValueError, "not below the working directory"),
        (["/etc/passwd"], ValueError, "not below the working directory"),
        (["no.csv"], FileNotFoundError, "'no.csv', which is not there"),
    ],
)
def test_files_that_cannot_travel_are_refused(here, files, error, text):
    with pytest.raises(error, match=text):
        choice.check_files(files, None, "scratch")


def test_files_do_not_go_to_a_directory_that_the_user_has_chosen(here):
    assert choice.check_files(["data"], "scratch", "scratch") == ("data",)
    with pytest.raises(ValueError, match="workdir='/srv'"):
        choice.check_files(["data"], "/srv", "scratch")


def test_too_much_is_refused_with_the_largest_and_what_to_do(here, monkeypatch):
    monkeypatch.setenv("CW_TRAVEL_LIMIT", "1kB")
    (here / "data/large.bin").write_bytes(bytes(3000))
    with pytest.raises(
        ValueError, match=r"3.0\dkB, more than 1kB; the largest: data/large.bin \(3kB\), .*LIMIT=1MB"
    ):
        chosen(here, files=["data"])
    monkeypatch.setenv("CW_TRAVEL_LIMIT", "much")
    with pytest.raises(ValueError, match="CW_TRAVEL_LIMIT must be a size"):
        chosen(here, files=["data"])
    monkeypatch.delenv("CW_TRAVEL_LIMIT")
    assert "data/large.bin" in chosen(here, files=["data"])
    monkeypatch.setattr(choice, "MOST_FILES", 2)
    with pytest.raises(
        ValueError, match="more than 2 files would travel to the workers, many of them of .*data"
    ):
        chosen(here, files=["data"])


def test_what_is_the_programs_own_is_known_by_name(here):
    assert choice.is_own("lab.sub.deep") and choice.is_own("alone")
    assert not any(map(choice.is_own, ["json", "pytest", "no_such_lab", "cw.client", "__main__", ""]))
