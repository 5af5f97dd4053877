"""What cw's programs share: a sys.path without traps, mistakes in one line, logs that do not flood."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cw import program
from cw.version import VERSION

PACKAGE = Path(program.__file__).parent
PROGRAMS = ["cw", "cw.master", "cw.worker", "cw.mp"]


def run_python(*arguments, cwd, path=PACKAGE.parent, **environment):
    """Run Python with these arguments, where cw is found only through `path`."""
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def copy_package(directory):
    shutil.copytree(PACKAGE, directory / "cw", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def traps(tmp_path):
    """A directory with a file for each standard module that `python -m` has not loaded by itself before."""
    directory = tmp_path / "traps"
    directory.mkdir()
    (directory / "probe.py").write_text("import sys; print(*sys.modules)")
    loaded = set(run_python("-m", "probe", cwd=directory).stdout.split())
    for name in sys.stdlib_module_names - loaded - {"__future__"}:
        if importlib.util.find_spec(name) is None:
            continue  # A module of other systems, such as msvcrt.
        (directory / f"{name}.py").write_text(f"raise SystemExit('imported from the directory: {name}')")
    assert {"signal.py", "socket.py", "json.py", "logging.py", "selectors.py"} <= {
        path.name for path in directory.iterdir()
    }
    return directory


# --- sys.path -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_imports_none_of_the_files_where_the_user_stands(traps, name):
    done = run_python("-m", name, "--version", cwd=traps)
    assert (done.stdout, done.stderr) == (f"cw {VERSION}\n", "")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_imports_none_of_the_files_beside_cw(traps, name):
    copy_package(traps)
    site = os.pathsep.join(entry for entry in sys.path if entry.endswith("site-packages"))
    done = run_python("-m", name, "--version", cwd=traps, path=site)
    assert (done.stdout, done.stderr) == (f"cw {VERSION}\n", "")


@pytest.mark.parametrize("options", [["-X", "dev", "-m"], ["-Bm"], ["-B", "-m"]])
def test_the_path_is_dropped_however_m_is_given(tmp_path, options):
    copy_package(tmp_path / "lib")
    (tmp_path / "lib/cw/probe.py").write_text("import sys; print(sys.path)")
    done = run_python(*options, "cw.probe", "-m", "x", cwd=tmp_path, path=tmp_path / "lib")
    assert str(tmp_path) not in eval(done.stdout)
    assert str(tmp_path / "lib") in eval(done.stdout)


def test_the_directory_that_holds_cw_goes_to_the_end(tmp_path):
    copy_package(tmp_path)
    (tmp_path / "cw/probe.py").write_text("import sys; print(sys.path)")
    done = run_python("-m", "cw.probe", cwd=tmp_path, path="")
    assert eval(done.stdout)[-1] == str(tmp_path)
    assert eval(done.stdout).count(str(tmp_path)) == 1


def test_a_program_of_the_user_keeps_its_path(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/__init__.py").write_text("import cw.program")
    (tmp_path / "theirs/__main__.py").write_text("import cw.program, helper")
    (tmp_path / "helper.py").write_text("print('found')")
    (tmp_path / "script.py").write_text("import cw.program, helper")
    for arguments in (["-m", "theirs"], ["-m", "theirs", "cw.master"], ["-m", "script"], ["script.py"]):
        assert run_python(*arguments, cwd=tmp_path).stdout == "found\n", arguments
    assert run_python("-c", "import cw.program, helper", cwd=tmp_path).stdout == "found\n"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="-P is of Python 3.11")
def test_a_path_that_is_safe_already_is_left_alone(tmp_path):
    copy_package(tmp_path / "lib")
    (tmp_path / "lib/cw/probe.py").write_text("import sys; print(sys.path)")
    path = f"{tmp_path}{os.pathsep}{tmp_path / 'lib'}"
    done = run_python("-P", "-m", "cw.probe", cwd=tmp_path, path=path)
    assert eval(done.stdout)[:2] == [str(tmp_path), str(tmp_path / "lib")]


def test_the_first_module_that_cw_imports_imports_none_itself(tmp_path):
    code = (
        "import sys, os, time, __future__; before = set(sys.modules); "
        f"sys.path.insert(0, {str(PACKAGE)!r}); import program; print(set(sys.modules) - before)"
    )
    assert run_python("-c", code, cwd=tmp_path).stdout == "{'program'}\n"


# --- a command line for another process -----------------------------------------------------


def run_command(command, cwd, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def test_a_command_runs_this_very_cw(tmp_path, traps):
    other = tmp_path / "other" / "cw"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise SystemExit('another cw')")
    for cwd in (other.parent, traps, tmp_path):
        done = run_command(program.command("cw.mp", "--version"), cwd, PYTHONPATH=str(other.parent))
        assert (done.stdout, done.stderr) == (f"cw {VERSION}\n", "")


def test_a_command_has_what_lies_beside_cw_last_and_not_the_current_directory(tmp_path, traps):
    copy_package(traps)
    (traps / "cw/probe.py").write_text("import sys; print(__name__, sys.argv[1:], sys.path)")
    code = "from cw import program; import subprocess; subprocess.run(program.command('cw.probe', 'a', 1))"
    done = run_python("-c", f"import sys; sys.path.append({str(traps)!r}); {code}", cwd=tmp_path, path="")
    assert done.stderr == ""
    name, arguments, path = done.stdout.partition("['a', '1']")
    assert (name.strip(), arguments) == ("__main__", "['a', '1']")
    assert eval(path)[-1] == str(traps)
    assert not {"", str(tmp_path)} & set(eval(path))


def test_code_runs_with_nothing_but_sys_in_its_main_module(tmp_path):
    code = "import cw; print(sys.argv[1:], cw.__path__, [name for name in globals() if name[0] != '_'])"
    done = run_command(program.python_command(code, "a", 1), tmp_path)
    assert done.stdout == f"['a', '1'] {[str(PACKAGE)]} ['sys', 'cw']\n"


def test_a_command_is_as_isolated_as_its_parent(tmp_path):
    code = (
        f"import sys; sys.path.append({str(PACKAGE.parent)!r}); "
        "from cw import program; print(program.command('x'))"
    )
    assert "-I" in eval(run_python("-I", "-c", code, cwd=tmp_path).stdout)
    assert "-I" not in eval(run_python("-c", code, cwd=tmp_path).stdout)


def test_without_an_executable_the_user_is_told(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(program.UserError, match="by hand"):
        program.command("cw.master")


# --- programs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "status", "text"),
    [
        ("program.UserError('port 5494 is taken')", 1, "cw.test: port 5494 is taken\n"),
        ("program.UsageError('-n twice')", 2, "cw.test: -n twice\n"),
        ("KeyboardInterrupt()", 130, ""),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_status(tmp_path, raised, status, text):
    code = f"from cw import program\ndef main(): raise {raised}\nprogram.run('cw.test', main)"
    done = run_python("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", text)


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        program.run("cw.test", lambda: 1 // 0)


@pytest.mark.parametrize("result", [0, 3, None])
def test_the_result_of_main_is_the_exit_status(result):
    with pytest.raises(SystemExit) as caught:
        program.run("cw.test", lambda: result)
    assert caught.value.code == result


def test_options_of_launchers_work_and_are_not_shown(capsys):
    parser = program.argument_parser("cw.test", "Tests.")
    program.add_launcher_options(parser, "--ready-fd", "--listen-fd")
    options = parser.parse_args(["-v", "--ready-fd", "7"])
    assert (options.verbose, options.ready_fd, options.listen_fd) == (True, 7, None)
    assert "fd" not in parser.format_help().lower()
    with pytest.raises(SystemExit):
        parser.parse_args(["--ready", "7"])
    assert "python -m cw.test" in capsys.readouterr().err


def test_a_value_error_of_a_conversion_is_shown_as_it_is(capsys):
    def refuse(text):
        raise ValueError(f"{text} is not to be")

    parser = program.argument_parser("cw.test", "Tests.")
    parser.add_argument("--what", type=program.converted_by(refuse))
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--what", "this"])
    assert caught.value.code == 2
    assert "this is not to be" in capsys.readouterr().err


def test_what_is_counted_goes_with_its_number():
    assert [program.count(n, "job") for n in range(3)] == ["0 jobs", "1 job", "2 jobs"]
    assert [program.count(n, "job is", "jobs are") for n in (1, 2)] == ["1 job is", "2 jobs are"]


@pytest.mark.parametrize("verbose", [False, True])
def test_logs_go_to_stderr_with_time_stamps(tmp_path, verbose, monkeypatch):
    monkeypatch.delenv("CW_LOG_EVENTS")
    code = (
        "import logging; from cw import program; "
        f"program.set_up_logging({verbose}); "
        "log = logging.getLogger('cw.test'); log.debug('a'); log.info('b')"
    )
    done = run_python("-c", code, cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert [line.split()[2:] for line in lines] == [["cw.test", "DEBUG:", "a"]] * verbose + [
        ["cw.test", "INFO:", "b"]
    ]
    assert lines[0][:4].isdigit()
    assert done.stdout == ""


def test_the_ids_of_events_stand_at_the_ends_of_lines_if_that_is_asked_for(tmp_path):
    code = (
        "import logging; from cw import events, program; program.set_up_logging(); "
        "events.EventLogger('cw.test').warning('test.lost', '%s is lost', 'it'); "
        "logging.getLogger('another.library').warning('hello')"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [
        "it is lost [test.lost]",
        "hello [-]",
    ]


def test_what_was_left_out_of_a_log_is_counted_at_the_programs_end(tmp_path):
    code = (
        "from cw import events, program; program.set_up_logging(); lines = events.RateLimited('cw.test'); "
        "[lines.warning('test.lost', '%d is lost', n) for n in range(5)]"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [
        "0 is lost [test.lost]", "4 is lost (and 3 more like it) [test.lost]"
    ]  # fmt: skip


def test_a_free_threaded_python_is_refused_in_a_sentence():
    code = "import sys; sys._is_gil_enabled = lambda: False; import cw"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "set PYTHON_GIL=1 in the environment, or use the ordinary build" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("module", "late"),
    [
        ("cw.master.cli", {"cw.observer.model", "cw.observer.demand", "cw.master.observers.snapshot"}),
        ("cw.worker.cli", {"cw.observer.model", "cw.client"}),
        ("cw.client", {"cw.observer.model", "cw.observer.demand", "cw.mp"}),
        ("cw.mp", {"cw.client", "cw.payloads.environment", "cw.net.messages", "subprocess"}),
    ],
)
def test_a_start_loads_nothing_that_is_needed_late_or_never(tmp_path, module, late):
    rare = {"asyncio", "cryptography", "ssl", "textual"}
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = {*run_python("-c", code, cwd=tmp_path).stdout.split()}
    assert module in loaded
    assert loaded & (late | rare) == set()


def test_a_program_loads_the_client_while_its_cluster_starts(tmp_path):
    code = "import sys, cw, cw.mp; cw.mp.allocate(1); print('cw.client.executor_parts' in sys.modules)"
    assert run_python("-c", code, cwd=tmp_path).stdout == "True\n"


def test_a_client_that_cannot_be_loaded_fails_where_it_is_used(tmp_path):
    (tmp_path / "bluelet.py").write_text("raise RuntimeError('not the real one')")
    code = "import sys; sys.path.insert(0, '.'); import cw; from cw import program; program.load_ahead();"
    code += "cw.ClusterExecutor(port=1)"
    found = run_python("-c", code, cwd=tmp_path)
    assert found.stderr.count("RuntimeError: not the real one") == 1
    assert "in load_ahead" not in found.stderr
