"""`cw runs`: tables and sentences, and exit statuses that say how a run has ended."""

import json
import re
import shlex
import subprocess
import sys
import threading

import pytest
from played_runs import LIMIT, PlayedRun, key

import cw
from cw import program
from cw.detached import cli
from cw.net import messages as m
from cw.output.printer import Piece
from cw.runs import names
from cw.runs.folder import CANCELLED, ENDED, SCRIPT, STEWARD
from cw.runs.lease import Lease
from cw.runs.output import OutputWriter
from cw.store.reader import Store


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CW_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("cw.detached.cli.POLL_SECONDS", 0.05)


@pytest.fixture
def path(tmp_path):
    Store(tmp_path / "sweep.cw", is_writing=True)
    return tmp_path / "sweep.cw"


@pytest.fixture
def played(path):
    """A run of two calls, which its steward has."""
    names.claim(None, str(path), lambda folder: False)
    run = PlayedRun(path)
    run.folder.change(
        created=run.folder.state().written - 100, host="node7", argv=["sweep.py", "-n", "two words"]
    )
    run.add(key(1), key(2))
    run.state = run.state._replace(calls=40, done=9, failed=1, running=8, waiting=22)
    run.end(STEWARD)
    steward = Lease(run.folder)
    assert steward.acquire()
    run.steward = steward
    yield run
    run.close()


@pytest.fixture
def runs(monkeypatch, capsys):
    """Runs `cw runs` with some arguments; returns its exit status, and what it has printed."""

    def runs(*arguments):
        monkeypatch.setattr(sys, "argv", ["cw runs", *map(str, arguments)])
        status = cli.main()
        return status, capsys.readouterr().out

    return runs


def test_the_list_has_a_line_for_each_run(played, runs, path, tmp_path):
    (tmp_path / "other.cw").mkdir()
    names.claim("damaged", str(tmp_path / "other.cw"), lambda folder: False)
    for arguments in (), ("list",):
        status, text = runs(*arguments)
        head, first, second = text.splitlines()
        assert (
            status == 0
            and head.split() == "run state done failed running waiting begun store or script".split()
        )
        assert first.startswith("damaged  damaged or gone")
        pattern = r"sweep +with its steward +9 of 40 +1 +8 +22 +2 min ago +" + re.escape(str(path))
        assert re.fullmatch(pattern, second) or re.fullmatch(pattern.replace("2 min", "1.. s"), second), (
            second
        )
    lines = [json.loads(line) for line in runs("list", "--json")[1].splitlines()]
    assert [line["name"] for line in lines] == ["damaged", "sweep"] and "there is no run" in lines[0][
        "damage"
    ]


def test_without_runs_the_list_says_so(runs):
    assert runs() == (0, "no runs\n")
    assert runs("list", "--json") == (0, "")


def test_the_status_says_counts_owner_age_and_how_to_come_back(played, runs, path):
    status, text = runs("status", "sweep")
    assert status == 0
    assert text.startswith(f"run: sweep, of the store {path}\nstate: with its steward (pid ")
    assert "calls: 9 of 40 done, 1 failed, 8 running, 22 waiting" in text
    assert "on node7: sweep.py -n 'two words'" in text
    assert re.search(r"left: about 5 min", text)  # 10 of 40 in 100 s
    assert "cw.attach('sweep')" in text and "runs wait sweep`" in text
    for other in path, played.folder.path:  # the store, and the folder
        assert "calls: 9 of 40 done" in runs("status", other)[1]
    found = json.loads(runs("status", "sweep", "--json")[1])
    assert (found["phase"], found["calls"], found["kind"]) == (STEWARD, 40, "run")
    assert 290 < found["seconds_left"] < 310
    played.end()
    assert "removes what is noted of it, and keeps the results" in runs("status", "sweep")[1]


def test_the_status_of_a_run_that_has_lost_its_owner_says_what_happens(played, runs, monkeypatch):
    started = []
    monkeypatch.setattr(cli, "start_steward", started.append)
    played.steward.release()
    assert (
        ", which has died (pid " in (text := runs("status", "sweep")[1]) and "another one is started" in text
    )
    assert [folder.path for folder in started] == [played.folder.path]
    played.folder.write_state(played.state._replace(phase=SCRIPT, start="another process"))
    assert "nothing of the run goes on. Run the script again" in runs("status", "sweep")[1]


@pytest.mark.parametrize(
    ("phase", "failed", "status"), [(ENDED, 0, 0), (ENDED, 3, 1), (CANCELLED, 0, 1)]
)  # fmt: skip
def test_the_exit_status_of_wait_says_how_a_run_has_ended(played, runs, phase, failed, status):
    assert runs("wait", "sweep", "--timeout", "0.01") == (3, "")
    played.state = played.state._replace(done=40 - failed, failed=failed)
    played.end(phase)
    what = "has ended" if phase == ENDED else "was cancelled"
    found, text = runs("wait", "sweep")
    assert found == status and text.startswith(
        f"the run sweep {what}: {40 - failed} of 40 calls done, {failed} failed"
    )


def test_output_shows_what_was_printed_and_follows_what_comes(played, monkeypatch, capfd):
    writer = OutputWriter(played.folder)
    writer.put(Piece(m.STDOUT, b"before\n", "[f #1 n] "))
    writer.put(Piece(m.STDERR, b"trouble\n", "[f #1 n] "))
    monkeypatch.setattr(sys, "argv", ["cw runs", "output", "sweep"])
    assert cli.main() == 0
    assert capfd.readouterr() == ("before\n", "trouble\n")

    def go_on():
        writer.put(Piece(m.STDOUT, b"after\n", "[f #1 n] "))
        played.end()

    later = threading.Timer(0.1, go_on)
    later.start()
    monkeypatch.setattr(sys, "argv", ["cw runs", "output", "-f", "sweep"])
    assert cli.main() == 0
    assert capfd.readouterr() == ("before\nafter\n", "trouble\n")
    later.join()
    writer.close()


def test_output_whose_reader_has_ended_ends_without_a_word(played):
    writer = OutputWriter(played.folder)
    writer.put(Piece(m.STDOUT, b"line\n" * 100_000, "[f #1 n] "))
    writer.close()
    command = f"{shlex.quote(sys.executable)} -m cw runs output sweep | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("line\n", "")


def test_cancel_and_forget_say_what_they_have_done(played, runs, path):
    with pytest.raises(program.UserError, match="the run sweep goes on: `.*runs cancel sweep`"):
        runs("forget", "sweep")

    def obey():
        while played.folder.requests() != {"cancel"}:
            threading.Event().wait(0.01)
        played.end(CANCELLED)

    steward = threading.Thread(target=obey)
    steward.start()
    assert runs("cancel", "sweep") == (
        0, "the run sweep was cancelled: 9 of 40 calls done, 1 failed; the results are in the store\n",
    )  # fmt: skip
    steward.join(LIMIT)
    with pytest.raises(cw.RunError, match="not under way: it was cancelled"):
        runs("cancel", "sweep")
    assert runs("forget", "sweep") == (0, "the run sweep is forgotten; its results stay in the store\n")
    assert runs() == (0, "no runs\n") and path.is_dir()


def test_a_whole_script_is_among_the_runs(runs, tmp_path):
    (tmp_path / "hello.py").write_text(
        "import sys\nprint('hello', *sys.argv[1:])\nsys.exit(int(sys.argv[1]))"
    )
    command = [sys.executable, "-m", "cw", "run", "--here", "--detach", str(tmp_path / "hello.py"), "7"]
    subprocess.run(command, check=True, capture_output=True, timeout=LIMIT)
    status, text = runs("wait", "hello")
    assert status == 7 and re.match("hello has ended after .* with exit status 7", text)
    assert re.search(r"hello +ended, exit status 7 .* ago +.*hello.py 7", runs()[1])
    assert "state: hello has ended" in (text := runs("status", "hello")[1]) and "a whole script: " in text
    found = json.loads(runs("status", "hello", "--json")[1])
    assert found == json.loads(runs("list", "--json")[1]) and found["exit_status"] == 7
    with pytest.raises(cw.RunError, match="is a whole script: it has output, but no calls"):
        cw.attach("hello")
    with pytest.raises(program.UserError, match="the run hello is not under way: hello has ended"):
        runs("cancel", "hello")
    assert runs("forget", "hello") == (0, "the run hello is forgotten, and its output removed\n")
    assert runs() == (0, "no runs\n")


def test_a_mistake_is_one_line_that_names_what_there_is(played, runs):
    for arguments, status, text in (
        (["status", "swep"], 1, r"cw runs: there is no run 'swep' in .*: there are sweep\n"),
        (["stop"], 2, r"cw runs: .*invalid choice: 'stop'.*\n"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "cw", "runs", *arguments], capture_output=True, text=True
        )
        assert done.returncode == status and re.fullmatch(text, done.stderr), done.stderr
    with open(played.folder.place("run.json"), "w") as file:
        file.write("{")
    with pytest.raises(program.UserError, match="run.json is damaged .*`.*runs forget sweep`"):
        runs("status", "sweep")
    with pytest.raises(SystemExit) as error:
        runs("wait")
    assert error.value.code == 2
