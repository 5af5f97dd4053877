"""What a runner takes over from the client's process."""

import json
import os
import subprocess
import sys
import textwrap
import time

import pytest

from cw.errors import EnvironmentMismatch, Error, PayloadError
from cw.payloads import environment


@pytest.fixture(autouse=True)
def unchanged_process(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    directory = os.getcwd()
    variables = dict(os.environ)
    yield
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)


def journey():
    return environment.load_environment(environment.dump_environment())


def test_the_environment_says_where_and_with_what_the_client_runs(tmp_path):
    os.chdir(tmp_path)
    arrived = journey()
    assert arrived.directory == str(tmp_path)
    assert arrived.python.split(".")[:2] == [str(n) for n in sys.version_info[:2]]
    assert arrived.cloudpickle.count(".") >= 1
    assert arrived.script == getattr(sys.modules["__main__"], "__file__", "")


def test_the_path_is_absolute_and_in_the_clients_order(tmp_path):
    os.chdir(tmp_path)
    sys.path[:] = ["", "lib", "/a", *sys.path, "/b", "/a", 3]
    path = journey().path
    assert path[:3] == (str(tmp_path), str(tmp_path / "lib"), "/a")
    assert path[-1] == "/b"
    assert path.count(None) == 1 and path.count("/a") == 1


def test_a_path_with_undecodable_bytes_arrives():
    sys.path[:] = ["/odd\udcff", *sys.path]
    assert journey().path[0] == "/odd\udcff"


def applied(path, own, directory="/"):
    sys.path[:] = own
    environment.apply_environment(environment.Environment(directory, tuple(path), "3.11.7", "3.0", ""))
    return sys.path


def test_the_standard_library_stays_the_runners_own_at_the_clients_place():
    library = os.path.dirname(os.__file__)
    own = ["/cw", "/x/python311.zip", library, library + "/lib-dynload", "/own/site-packages"]
    assert applied(["/script", None, "/client/site-packages"], own) == [
        "/script",
        "/x/python311.zip",
        library,
        library + "/lib-dynload",
        "/client/site-packages",
        "/cw",
        "/own/site-packages",
    ]


def test_with_the_same_installation_the_path_is_the_clients():
    sys.path[:] = dict.fromkeys(sys.path)
    client = [entry or os.getcwd() for entry in sys.path]
    path = journey().path
    assert applied(path, client)[: len(client)] == client


def test_the_directory_is_entered(tmp_path):
    applied([], sys.path, str(tmp_path))
    assert os.getcwd() == str(tmp_path)


def test_a_directory_that_is_not_there_is_an_error_that_names_it_and_the_machine(tmp_path):
    missing = str(tmp_path / "missing")
    with pytest.raises(EnvironmentMismatch) as caught:
        applied(["/script"], sys.path, missing)
    assert missing in str(caught.value) and os.uname().nodename in str(caught.value)
    assert sys.path[0] == "/script"


def test_a_client_in_a_deleted_directory_is_told(tmp_path):
    directory = tmp_path / "gone"
    directory.mkdir()
    os.chdir(directory)
    directory.rmdir()
    with pytest.raises(Error, match="working directory is gone"):
        environment.dump_environment()


@pytest.mark.parametrize("payload", [b"", b"\x80", b"3", b"[]", b'["a"]', json.dumps([1, 2]).encode()])
def test_a_payload_that_is_no_environment_is_refused(payload):
    with pytest.raises(PayloadError):
        environment.load_environment(payload)


def test_a_new_module_is_found_after_applying(tmp_path):
    code = (
        "import sys; from cw.payloads import environment as e\n"
        "e.apply_environment(e.Environment(sys.argv[1], (sys.argv[1], None), '', '', ''))\n"
        "import brand_new; print(brand_new.__file__)"
    )
    (tmp_path / "brand_new.py").write_text("")
    root = os.path.dirname(os.path.dirname(os.path.dirname(environment.__file__)))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == (f"{tmp_path / 'brand_new.py'}\n", "")


# --- variables ---


def variables_of(code, **environment):
    """What travels from a program that is started with these variables and runs this code."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(environment_file)))
    done = subprocess.run(
        [sys.executable, "-c", f"import os\n{code}\n{_PRINT}"], capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": root, "PATH": os.environ["PATH"], **environment},
    )  # fmt: skip
    return json.loads(done.stdout)


environment_file = environment.__file__
_PRINT = """
import json
from cw.payloads import environment as e
print(json.dumps(e.load_environment(e.dump_environment()).variables))
"""


def test_what_the_program_has_set_or_deleted_itself_travels_and_nothing_else():
    code = "os.environ.update(MINE='5', CHANGED='b', OMP_NUM_THREADS='3'); del os.environ['GONE']"
    found = variables_of(code, CHANGED="a", GONE="1", KEPT="k")
    assert found == {"MINE": "5", "CHANGED": "b", "GONE": None, "OMP_NUM_THREADS": "3"}
    assert variables_of("", KEPT="k") == {}
    assert variables_of("os.environ['KEPT'] = 'k'", KEPT="k") == {}


def test_what_belongs_to_the_process_or_its_place_does_not_travel():
    names = [
        "CW_CREDENTIAL",
        "SLURM_JOB_ID",
        "CUDA_VISIBLE_DEVICES",
        "PYTHONHASHSEED",
        "PWD",
        "JPY_PARENT_PID",
    ]
    assert variables_of(f"for name in {names}: os.environ[name] = '5'") == {}
    assert variables_of(f"for name in {names}: del os.environ[name]", **dict.fromkeys(names, "5")) == {}


def test_a_notebooks_own_way_to_draw_does_not_travel_but_another_does():
    assert variables_of("os.environ['MPLBACKEND'] = 'module://matplotlib_inline.backend_inline'") == {}
    assert variables_of("os.environ['MPLBACKEND'] = 'Agg'") == {"MPLBACKEND": "Agg"}


def test_bytes_and_all_characters_travel():
    found = variables_of(r"os.environb[b'ODD'] = b'\xff=\n'; os.environ['UMLAUT'] = '\u00fc'")
    assert found == {"ODD": "\udcff=\n", "UMLAUT": "\u00fc"}


def test_variables_are_set_and_deleted(monkeypatch):
    monkeypatch.setenv("TO_GO", "1")
    environment.apply_variables({"TO_GO": None, "NEW": "\udcff", "NEVER_THERE": None, "TZ": "UTC-5"})
    assert "TO_GO" not in os.environ and os.environb[b"NEW"] == b"\xff"
    assert time.strftime("%z", time.localtime(0)) == "+0500"
    environment.apply_variables({"TZ": None})
    time.tzset()


def test_variables_are_set_before_anything_of_the_users_is_imported(tmp_path):
    (tmp_path / "reads_it.py").write_text("import os\nvalue = os.environ['EARLY']\n")
    code = (
        "import sys; from cw.payloads import environment as e\n"
        "e.apply_environment(e.Environment('/', (sys.argv[1], None), '', '', '', {'EARLY': 'yes'}))\n"
        "import reads_it; print(reads_it.value)"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(environment.__file__)))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("yes\n", "")


@pytest.mark.parametrize(
    ("given", "travels"),
    [
        ("", ""),
        ("0", "0"),
        ("4294967295", "4294967295"),
        ("007", "7"),
        ("random", ""),
        ("4294967296", ""),
        ("-1", ""),
    ],
)
def test_a_hash_seed_travels_if_python_takes_it(monkeypatch, given, travels):
    monkeypatch.setenv("PYTHONHASHSEED", given)
    assert journey().hash_seed == travels


def test_the_sessions_seed_travels():
    loaded = environment.load_environment(environment.dump_environment(b"\x00\xff"))
    assert bytes.fromhex(loaded.seed) == b"\x00\xff"


def test_the_key_of_multiprocessing_travels_once_managers_are_loaded_and_is_not_shown():
    """Set there, it is the key of the process: as in the processes of a pool."""
    code = """
        import json, sys
        from cw.payloads import environment as e
        first = e.load_environment(e.dump_environment())
        import multiprocessing.managers
        own = multiprocessing.current_process().authkey
        second = e.load_environment(e.dump_environment())
        multiprocessing.current_process().authkey = b"another"
        e.apply_environment(second)
        print(json.dumps([first.authkey, second.authkey == own.hex(), own.hex() in repr(second),
                          multiprocessing.current_process().authkey == own]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == ["", True, False, True]


def test_the_recursion_limit_travels():
    payload = environment.dump_environment()
    assert environment.load_environment(payload).recursion_limit == sys.getrecursionlimit()
    before = sys.getrecursionlimit()
    code = (
        "import sys\nfrom cw.payloads import environment as e\n"
        "e.apply_environment(e.Environment('/', (None,), '', '', '', recursion_limit=int(sys.argv[1])))\n"
        "print(sys.getrecursionlimit())"
    )
    for limit, found in (("4321", "4321\n"), ("0", f"{before}\n"), ("1", f"{before}\n")):
        assert subprocess.check_output([sys.executable, "-c", code, limit], text=True) == found
