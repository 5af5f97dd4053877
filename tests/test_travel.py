"""Modules and files that travel: real workers, which do not see the directory of the client's program."""

import importlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Worker

import cw

HIDDEN = [
    "unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none "$1" && shift && exec "$@"', "-",
]  # fmt: skip

PASSED_OVER = ("client.modules_reloaded", "client.waits", "client.wait_over")


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """A directory that no worker sees."""
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    """The directory for scratch directories of the workers."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def lab(hidden, temporary):
    """The address of a master with two workers on machines of their own, as it were."""
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    before = (*HIDDEN, str(hidden))
    with (
        Master() as master,
        Worker(master.address, "-n", "2", cwd="/", before=before, TMPDIR=str(temporary)),
        Worker(master.address, cwd="/", before=before, TMPDIR=str(temporary)),
    ):
        yield master.address
        assert list(temporary.glob("*/files-*/"))
    wait_until(lambda: list(temporary.iterdir()) == [], LIMIT)


@pytest.fixture
def program(hidden, tmp_path, monkeypatch):
    """The directory of a program, with a package of its own; `load()` imports that."""
    here = hidden / tmp_path.name
    (here / "mylab/parts").mkdir(parents=True)
    (here / "mylab/__init__.py").write_text(
        "from mylab import parts\ndef work(n): return parts.add(n), __file__\n"
    )
    (here / "mylab/parts/__init__.py").write_text("import helper\ndef add(n): return n + helper.STEP\n")
    (here / "mylab/later.py").write_text("NAME = 'later'\n")
    (here / "helper.py").write_text("STEP = 1\n")
    (here / "params.toml").write_text("dt = 1\n")
    (here / "data/deep").mkdir(parents=True)
    (here / "data/deep/table.csv").write_text("1,2\n")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))
    yield here
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mylab", "helper")]:
        del sys.modules[name]


def load():
    return importlib.import_module("mylab")


def look():
    """A job's view: its directory, and what is in it."""
    found = {
        str(path): path.read_text()
        for path in Path(".").rglob("*.*")
        if path.is_file() and path.suffix != ".pyc"
    }
    return os.getcwd(), found


def warnings_in(caplog):
    """But for those of modules that a test has loaded anew, and of waits, as on a busy machine."""
    found = [record.event for record in caplog.records if record.levelno >= logging.WARNING]
    return [event for event in found if event not in PASSED_OVER]


def test_modules_travel_where_no_worker_sees_them(lab, program, temporary, caplog):
    mylab = load()
    with cw.ClusterExecutor(lab) as executor:
        found = list(executor.map(mylab.work, range(40), timeout=LIMIT))
        assert [value for value, _ in found] == list(range(1, 41))
        assert all(
            path.startswith(str(temporary)) and path.endswith("/mylab/__init__.py") for _, path in found
        )
        later = executor.submit(lambda: importlib.import_module("mylab.later").NAME)
        assert later.result(LIMIT) == "later"  # which this program has not imported
        place, files = executor.submit(look).result(LIMIT)
        assert place.startswith(str(temporary)) and files == {}
    assert warnings_in(caplog) == ["client.files_travel"]


def test_what_the_user_names_travels_from_the_first_call_on_and_data_files_are_found(lab, program, caplog):
    mylab = load()
    settings = {
        "modules": ["mylab", importlib.import_module("helper")],
        "files": ["params.toml", program / "data"],
    }
    with cw.ClusterExecutor(lab, **settings) as executor:
        assert executor.submit(mylab.work, 1).result(LIMIT)[0] == 2
        _, files = executor.submit(look).result(LIMIT)
        assert files == {"params.toml": "dt = 1\n", "data/deep/table.csv": "1,2\n"}
        # The copy is for all; what a job writes beside it is its process's own.
        executor.submit(Path("data/new").write_text, "mine").result(LIMIT)
    assert warnings_in(caplog) == []
    with cw.ClusterExecutor(lab, **settings) as executor:
        assert executor.submit(look).result(LIMIT)[1].keys() == files.keys()
    assert list(cw.map(mylab.work, [1], host=lab, modules=True))[0][0] == 2
    found = []
    with cw.client.ClientThread(lambda number, value: found.append(value), lab, modules=True) as client:
        client.submit(mylab.work, 1)
    with cw.Pool(host=lab, files=["params.toml"]) as pool:
        assert pool.apply(look)[1] == {"params.toml": "dt = 1\n"}
    assert [value for value, _ in found] == [2]


def test_edits_are_seen_at_the_next_map_and_by_calls_submitted_after_it_alone(lab, program):
    mylab = load()
    with cw.ClusterExecutor(lab, modules=["mylab", "helper"], files=["params.toml"]) as executor:
        assert executor.submit(mylab.work, 1).result(LIMIT)[0] == 2
        (program / "params.toml").write_text("dt = 22\n")
        (program / "helper.py").write_text("STEP = 10\n")
        (program / "data/more").touch()  # does not travel
        assert [value for value, _ in executor.map(mylab.work, range(3), timeout=LIMIT)] == [10, 11, 12]
        assert executor.submit(look).result(LIMIT)[1] == {"params.toml": "dt = 22\n"}
        (program / "params.toml").write_text("dt = 333\n")
        wait_until(lambda: executor.submit(look).result(LIMIT)[1] == {"params.toml": "dt = 333\n"}, LIMIT)


def test_a_call_with_an_initializer_and_one_that_waits_are_sent_again_with_what_they_lack(lab, program):
    mylab = load()
    with cw.ClusterExecutor(lab, initializer=mylab.work, initargs=(1,)) as executor:
        first = executor.submit(mylab.work, 1)
        second = executor.submit(lambda pair: pair[0] + 1, first)
        chunks = executor.map(mylab.work, range(6), chunksize=3, timeout=LIMIT)
        assert first.result(LIMIT)[0] == 2 and second.result(LIMIT) == 3
        assert [value for value, _ in chunks] == [1, 2, 3, 4, 5, 6]


def test_what_cannot_travel_is_told_by_name(lab, program, monkeypatch, caplog):
    mylab = load()
    (program / "mylab/fast.cpython-27m-mips.so").touch()
    installed = program / "site-packages"
    installed.mkdir()
    (installed / "bought.py").touch()
    (program / "shop.py").write_text("import bought\ndef work(): pass\n")
    monkeypatch.syspath_prepend(str(installed))
    shop = importlib.import_module("shop")
    try:
        with cw.ClusterExecutor(lab, modules=True) as executor:
            error = executor.submit(shop.work).exception(LIMIT)
            assert isinstance(error, ModuleNotFoundError) and "'bought'" in str(error)
            assert "install it there, or name it with modules=['bought']" in str(error)
            wanted = executor.submit(jobs.echo, Named("mylab.fast", "thing")).exception(LIMIT)
            assert "mylab/fast.cpython-27m-mips.so was compiled for another platform or Python" in str(wanted)
        with cw.ClusterExecutor(lab, modules=False) as executor:
            with pytest.raises(cw.EnvironmentMismatch, match="modules=True: then its own modules travel"):
                executor.submit(mylab.work, 1).result(LIMIT)
        monkeypatch.setenv("CW_TRAVEL_LIMIT", "20")
        with cw.ClusterExecutor(lab) as executor:
            assert isinstance(executor.submit(mylab.work, 1).exception(LIMIT), cw.EnvironmentMismatch)
        (text,) = [record.getMessage() for record in caplog.records if record.event == "client.files_stay"]
        assert "the largest: " in text and "more than 20B" in text
    finally:
        del sys.modules["shop"], sys.modules["bought"]


class Named:
    """Unpickled as what a module has under a name."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __reduce__(self):
        return importlib.import_module, (self.module,)


def test_a_machine_that_shares_the_directory_uses_it_and_a_stale_copy_is_not_run(program, tmp_path, hidden):
    """The other machine has another text of the module in a directory of the same name."""
    other = tmp_path / "other"
    (other / "mylab").mkdir(parents=True)
    (other / "mylab/__init__.py").write_text("def work(n): return 'old', n\n")
    before = (
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        'mount --bind "$1" "$2" && shift 2 && exec "$@"',
        "-",
    )
    mylab = load()
    with Master() as master, Worker(master.address, cwd="/", before=(*before, str(other), str(program))):
        with cw.ClusterExecutor(master.address) as executor:
            assert executor.submit(mylab.work, 1).result(LIMIT)[0] == 2
        with Worker(master.address, cwd="/"):
            with cw.ClusterExecutor(master.address, modules=["mylab"], files=["params.toml"]) as executor:

                def places():
                    """Where jobs run. (Of two idle workers, the one that was busy last gets the next job.)"""
                    first = executor.submit(os.getcwd)
                    first.result(LIMIT)
                    held = executor.submit(time.sleep, 1)
                    second, value = executor.submit(os.getcwd), executor.submit(mylab.work, 1)
                    assert value.result(LIMIT)[0] == 2
                    held.result(LIMIT)
                    return {first.result(LIMIT), second.result(LIMIT)}

                wait_until(lambda: {str(program)} < places(), LIMIT)
