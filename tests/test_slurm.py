"""A cluster in a real Slurm: started, used, looked at, changed in size, ended; and what goes wrong with it."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import jobs
import pages
import pytest
import sandbox
from conftest import wait_until
from programs import LIMIT, ROOT, Program, free_port, start_script

import cw
from cw.launch import status_client
from cw.launch.launcher import LaunchError
from cw.location import Location
from cw.net import address
from cw.slurm import squeue, submitted
from cw.slurm.submitted import State

if os.environ.get("CI") != "true":  # there it is installed, and a test that cannot run is a failure
    pytestmark = pytest.mark.skipif(not sandbox.is_installed(), reason=sandbox.HOW_TO_GET_IT)


@pytest.fixture(scope="module")
def shared():
    with sandbox.Sandbox(nodes=4, cpus=2) as shared:
        yield shared


@pytest.fixture
def slurm(shared, monkeypatch):
    """The sandbox, which programs and this process use as their Slurm. At the end of a test its queue is empty."""
    yield from used(shared, monkeypatch)


def used(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield slurm
    left = slurm.queue()
    names = [name[len("slurm-") :] for name in os.listdir(os.environ["CW_HOME"]) if is_cluster(name)]
    for name in names:
        cw.slurm.stop(name, grace=0)
    slurm.run("scancel", "-u", str(os.getuid()))
    wait_until(lambda: not slurm.queue(), LIMIT, slurm.queue)
    assert [job for job in left if job[1] != "COMPLETING"] == []


def is_cluster(name):
    return Path(os.environ["CW_HOME"], name, "state.json").exists()


def run(*arguments, status=0, program=(str(ROOT / "slurm.py"),), **environment):
    """Run slurm.py; what it prints to stdout and stderr."""
    process = subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert process.returncode == status, process.stdout + process.stderr
    assert "Traceback" not in process.stderr
    return process.stdout, process.stderr


def standing(name="default"):
    return status_client.ask(address.find_cluster(name))


def nodes_of(found):
    """Where its workers are."""
    return {Location.parse(worker["location"]).node for worker in found.workers}


def slots(name="default"):
    found = standing(name)
    return found.slots if found else 0


def node():
    return os.environ["SLURMD_NODENAME"]


def mark_and_wait(directory, number, seconds):
    jobs.mark_and_return(directory, number)
    time.sleep(seconds)
    return number


# --- from start to stop -----------------------------------------------------------------------


def test_from_start_to_stop(slurm, tmp_path):
    out, _ = run("-n", 5, "--time=60", "start")  # options before the verb, as the original has it
    assert re.match(r"the master answers at \S+:\d+\n5 of 5 slots are up\nlogs: ", out)
    found = standing()
    # Pieces of a node's two CPUs: each worker is a job of its own, and the last one has a slot less.
    assert sorted(worker["slots"] for worker in found.workers) == [1, 2, 2]
    job_by_node = {(place := Location.parse(worker["location"])).node: place.job for worker in found.workers}
    assert len(set(job_by_node.values())) == len(found.workers) and set(job_by_node) <= set(slurm.nodes)

    script = start_script(tmp_path, "import cw, test_slurm\n"
        "with cw.ClusterExecutor(cw.slurm_master_host()) as one, cw.client.ClientThread(print) as two:\n"
        "    two.submit(7, abs, -1)\n"
        "    print(sorted({one.submit(test_slurm.node).result() for _ in range(60)}))\n",
        PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")  # fmt: skip
    with script:
        assert script.wait() == 0, script.err
        assert "7 1\n" in script.out and re.search(r"\['n\d'", script.out)

    out, _ = run("status")
    assert "slots connected: 5\n" in out and "jobs: 0 run, 0 wait\n" in out
    assert re.search(r"^workers \(2 slots\): Slurm job \d+ runs on n\d, [\d:-]+ left$", out, re.MULTILINE), (
        out
    )
    logs = Path(re.search("^logs: (.*)$", out, re.MULTILINE)[1])
    for node_name, ident in job_by_node.items():
        assert (
            f"Slurm job {ident}, step 0, node {node_name}; slots: "
            in (logs / f"workers-{ident}-{node_name}.log").read_text()
        )

    out, _ = run("scale", "-n", 6)
    assert "1 more slot" in out
    wait_until(lambda: slots() == 6, LIMIT, standing)
    assert "it has 6 slots already" in run("scale", "-n", 6)[0]
    run("scale", "-n", 2)
    wait_until(lambda: slots() == 2, LIMIT, standing)

    with cw.ClusterExecutor() as executor:
        future = executor.submit(jobs.until, tmp_path / "go", "finished", tmp_path / "mark")
        wait_until((tmp_path / "mark").exists, LIMIT)
        with start_script(tmp_path, "import cw; print(cw.slurm.stop(grace=30))") as stopping:
            wait_until(lambda: standing() is not None and slots() == 0, LIMIT, standing)
            (tmp_path / "go").touch()
            assert future.result(LIMIT) == "finished"
            assert stopping.wait() == 0 and "1 of them finished, 0 were stopped" in stopping.out, stopping.err
    wait_until(lambda: not slurm.queue(), LIMIT, slurm.queue)
    assert "no cluster 'default' is in Slurm" in run("status", status=1)[0]
    assert "no cluster of that name" in run("stop")[0]


def test_two_clusters_of_one_user(slurm):
    cluster = cw.slurm.start(1)
    run("start", "-n", 2, "--name", "second")
    assert (slots(), slots("second")) == (1, 2)
    with pytest.raises(LaunchError, match="has its master already"):
        cw.slurm.start(1)
    assert "stopped" in cw.slurm.stop("second")
    assert standing() is not None and standing("second") is None
    with cw.ClusterExecutor() as executor:
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9
    cluster.stop()
    assert cw.slurm.status() is None


def test_a_sweep_for_the_original_library_runs_unchanged(slurm, tmp_path):
    with Program(ROOT / "tests" / "scripts" / "original_sweep.py", "slurm") as program:
        assert program.wait() == 0, program.err
        assert ast.literal_eval(program.out) == {(n, "narrow"): 2 * n for n in range(1, 4)} | {
            f"wide {n}": 10 * n for n in range(1, 4)
        }
    assert cw.is_slurm_available()


@pytest.mark.slow
@pytest.mark.parametrize("script", ["slurm.py", "tests/scripts/original_slurm.py"])
def test_master_and_workers_end_one_without_the_other(slurm, script):
    program = (str(ROOT / script),)
    run("start", "-n", 2, "--Xworkers=--time=10", program=program)
    run("stop", "-M", program=program)
    found = standing()
    assert (found.slots, found.workers) == (0, [])
    assert not any("workers" in job[2] for job in slurm.queue() if job[1] != "COMPLETING")
    run("start", "-M", "-n", 1, program=program)
    assert slots() == 1
    before = State.load("default").of_role("master")
    run("stop", "-W", program=program)
    assert standing() is None
    run("start", "-W", program=program)
    assert State.load("default").of_role("master") != before
    wait_until(lambda: slots() == 1, LIMIT)  # the worker has found it
    with cw.ClusterExecutor() as executor:
        assert executor.submit(abs, -7).result(LIMIT) == 7
    run("stop", "-M", program=program)
    run("stop", "-W", program=program)
    assert not State.load("default").token  # nothing was left of it
    assert "no such part" in run("stop", "-M")[0]
    assert cw.slurm.stop(False, False) == ""


@pytest.mark.slow
def test_master_and_workers_one_after_the_other(slurm, tmp_path):
    assert "slots" not in run("start", "-W")[0]
    run("start", "-M", "-n", 2, "-i", program=("-m", "cw.slurm"))
    assert [worker["slots"] for worker in standing().workers] == [1, 1]  # one slot a node
    run("stop")


@pytest.mark.slow
def test_a_local_master(slurm, tmp_path):
    run("start", "--local-master", "-n", 2)
    assert [job[2].split("-")[2] for job in slurm.queue()] == ["workers"]
    with cw.ClusterExecutor() as executor:
        assert executor.submit(node).result(LIMIT) in slurm.nodes
    with submitted.locked("default") as state:
        here = state.local["boot_id"]
        state.local["boot_id"] = "another login node's"
        state.save()
    assert "has its master already (a process on " in run("start", "-W", status=1)[1]
    with submitted.locked("default") as state:
        state.local["boot_id"] = here
        state.save()
    assert "stopped" in run("stop")[0]
    wait_until(lambda: standing() is None, LIMIT)


@pytest.mark.parametrize("how", [pytest.param("exception", marks=pytest.mark.slow), "kill"])
def test_a_block_cancels_what_it_started_however_it_ends(slurm, tmp_path, how):
    source = """
        import os, sys, cw, test_slurm
        with cw.allocate(2, worker_options=["--time=5"]) as cluster:
            with cw.SlurmExecutor() as executor:
                print(executor.submit(test_slurm.node).result(), cluster.slots, flush=True)
            if sys.argv[1:] == ["kill"]:
                os.kill(os.getpid(), 9)
            raise LookupError
    """
    path = tmp_path / "block.py"
    path.write_text(textwrap.dedent(source))
    process = subprocess.run([sys.executable, path, how], env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
                             capture_output=True, text=True, timeout=50)  # fmt: skip
    assert re.match(r"n\d 2\n", process.stdout), process.stderr
    assert process.returncode == (-9 if how == "kill" else 1)
    wait_until(lambda: not [job for job in slurm.queue() if job[1] != "COMPLETING"], LIMIT, slurm.queue)


def test_a_cluster_without_a_block_ends_with_its_program(slurm, tmp_path):
    source = """
        import cw, test_slurm
        cluster = cw.allocate(2, worker_options=["--time=5"])
        with cw.SlurmExecutor() as executor:
            print(executor.submit(test_slurm.node).result(), cluster.slots)
    """
    path = tmp_path / "object.py"
    path.write_text(textwrap.dedent(source))
    process = subprocess.run([sys.executable, path], env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
                             capture_output=True, text=True, timeout=50)  # fmt: skip
    assert re.match(r"n\d 2\n", process.stdout) and process.returncode == 0, process.stderr
    assert not [job for job in slurm.queue() if job[1] != "COMPLETING"]


@pytest.mark.slow
def test_what_a_program_was_submitting_when_it_was_killed_is_cancelled(slurm, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    real = subprocess.check_output(["which", "sbatch"], text=True).strip()
    (tmp_path / "bin/sbatch").write_text(
        f'#!/bin/sh\ntouch {tmp_path}/begun\n"{real}" "$@"\nsleep 1; touch {tmp_path}/ended\n'
    )
    (tmp_path / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    with start_script(tmp_path, "import cw, time\nwith cw.allocate(1): time.sleep(100)") as script:
        wait_until((tmp_path / "begun").exists, LIMIT)
        wait_until(lambda: slurm.queue(), LIMIT)
        script.end(9)
    wait_until((tmp_path / "ended").exists, LIMIT)
    wait_until(lambda: not [job for job in slurm.queue() if job[1] != "COMPLETING"], LIMIT, slurm.queue)


@pytest.mark.slow
def test_workers_of_a_block_for_the_master_that_is_there(slurm):
    with pytest.raises(LaunchError, match="no master of the cluster 'default' answers: start one"):
        cw.slurm.allocate(2, master=False).__enter__()
    run("start", "-W")
    with cw.slurm.allocate(2, master=False) as cluster, cw.ClusterExecutor() as executor:
        assert cluster.connected == 2 and executor.submit(node).result(LIMIT) in slurm.nodes
    wait_until(lambda: slots() == 0, LIMIT, standing)
    assert "stopped" in run("stop")[0]  # the master was left alone


@pytest.mark.slow
def test_the_size_may_be_changed_again_at_once(slurm):
    run("start", "-n", 2, "--Xworkers", "--hold")
    assert "for 3 more slots" in run("scale", "-n", 5)[0]
    out, _ = run("scale", "-n", 1)  # before Slurm may be asked what became of that
    assert "for 1 more slot" in out and out.count("Slurm job") == 4, (
        out
    )  # pieces of 2, 2 and 1 are taken back
    wait_until(lambda: len([job for job in slurm.queue() if "workers" in job[2]]) == 1, LIMIT, slurm.queue)
    run("stop")


# --- what Slurm says --------------------------------------------------------------------------


def test_what_sbatch_refuses_is_told_in_its_own_words_and_leaves_nothing(slurm):
    _, error = run("start", "-n", 2, "--partition", "nowhere", status=1)
    assert "invalid partition specified: nowhere" in error and error.count("\n") == 1
    _, error = run("start", "-n", 2, "--Xworkers", "--constraint=gold", status=1)
    assert "slurm.py: sbatch: " in error and "Invalid feature specification" in error
    assert not [job for job in slurm.queue() if job[1] != "COMPLETING"] and cw.slurm.status() is None


def test_without_a_slurm_that_answers_that_is_told_in_a_sentence(monkeypatch, tmp_path):
    if not os.path.exists("/etc/slurm/slurm.conf"):
        monkeypatch.delenv("SLURM_CONF", raising=False)
        _, error = run("start", "-n", 2, status=1)
        assert re.fullmatch(
            r"slurm\.py: Slurm does not answer \(.*\): start this on .*, or use cw.mp\n", error
        )
    conf = tmp_path / "slurm.conf"
    _, error = run("start", "-n", 2, status=1, SLURM_CONF=str(conf))
    assert error == f"slurm.py: SLURM_CONF names {conf}, which cannot be read: Slurm's settings lie there\n"
    conf.write_text(f"ClusterName=x\nSlurmctldHost=localhost\nSlurmctldPort={free_port()}\nAuthType=auth/none\n"
                    "NodeName=n1 NodeAddr=127.0.0.1\nPartitionName=p Nodes=ALL\n")  # fmt: skip
    _, error = run("start", "-n", 2, status=1, SLURM_CONF=str(conf))
    assert error == "slurm.py: Slurm's controller is down: try again later\n"
    assert "no cluster of that name" in run("stop")[0]
    assert not Path(os.environ["CW_HOME"], "slurm-default").exists()


@pytest.mark.parametrize(
    "line, told",
    [
        ("scale", "to how many slots"),
        ("stop --time 3", "--time is not for stop"),
        ("status -n 3", "--nworkers is not for status"),
        ("start --grace 3", "--grace is not for start"),
        ("start -n 0", "is no number of slots"),
        ("start -n ²", "is no number of slots"),
        ("start --Xworkers --job-name=mine", "--job-name=mine: that is said to sbatch by cw itself"),
        ("start --Xmaster -a1-3", "-a1-3: that is said to sbatch by cw itself"),
    ],
)
def test_a_wrong_command_line_is_told(line, told):
    assert told in run(*line.split(), status=2)[1]


def test_a_wrong_name_is_told():
    assert "'a/b' is no name for a cluster" in run("stop", "--name", "a/b", status=1)[1]


@pytest.mark.slow
def test_a_start_that_fails_leaves_what_was_there_before(slurm):
    assert "no master of the cluster 'default' answers" in run("start", "-M", "-n", 2, status=1)[1]
    run("start", "-W", "--local-master")
    before = Path(os.environ["CW_HOME"], "slurm-default/state.json").read_bytes()
    assert "invalid partition" in run("start", "-M", "-n", 2, "--partition", "nowhere", status=1)[1]
    assert Path(os.environ["CW_HOME"], "slurm-default/state.json").read_bytes() == before
    assert re.match(r"cluster: default\nmaster: \S+ \(process \d+ on \S+\)\n", run("status")[0])
    assert "for 2 more slots" in run("scale", "-n", 2)[0]
    wait_until(lambda: slots() == 2, LIMIT, standing)
    for process in State.load("default").local_processes()[:1]:
        process.send_signal(9)
    wait_until(lambda: standing() is None, LIMIT)
    assert "its master is gone: start only a master (`" in run("start", "-n", 2, status=1)[1]
    assert "stopped" in run("stop")[0]


def test_what_waits_in_the_queue_is_told_with_the_reason_also_in_programs(slurm, counted, caplog):
    began = time.monotonic()
    out, _ = run("start", "-n", 2, "--Xworkers", "--hold")
    assert "0 of 2 slots are up; Slurm job" in out and "waits in the queue: you hold it" in out, out
    assert "you hold it" in run("status")[0] and "you hold it" in run("status")[0]
    with cw.ClusterExecutor() as executor:
        future = executor.submit(pow, 2, 5)
        wait_until(lambda: "the jobs wait" in caplog.text, LIMIT)
        found = re.search(
            r"the jobs wait: no worker is connected to the master: Slurm job (\d+) of the workers waits in the queue: "
            r"you hold it: (scontrol release \1) \(JobHeldUser\)",
            caplog.text,
        )
        assert found, caplog.text
        slurm.run(*found[2].split())  # the advice works as it stands
        assert future.result(LIMIT) == 32
        wait_until(lambda: "the jobs wait no longer, after" in caplog.text, LIMIT)
    run("stop")
    assert 1 <= counted() <= 1 + (time.monotonic() - began) / squeue.QUEUE_SECONDS


@pytest.mark.slow
def test_while_the_master_waits_in_the_queue_clients_are_told_that_and_go_nowhere_else(slurm, tmp_path):
    with start_script(tmp_path, "import cw; cw.slurm.start(1, master_options=['--hold'])") as starting:
        wait_until(lambda: slurm.queue(), LIMIT)
        script = "import cw; cw.ClusterExecutor(connect_timeout=1)"
        with start_script(tmp_path, script) as client:
            assert client.wait() == 1
        told = r"the master of the cluster 'default' does not answer: Slurm job \d+ \(master\) (was submitted|waits)"
        assert re.search(f"ConnectionError: {told}", client.err) and "localhost" not in client.err, client.err
        with pytest.raises(LaunchError, match=told):
            cw.slurm_master_host()
        assert "stopped" in run("stop")[0]
        assert starting.wait() == 1 and "the cluster 'default' was stopped meanwhile" in starting.err, (
            starting.err
        )


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """Calls of squeue, one line for each."""
    (tmp_path / "bin").mkdir()
    real = subprocess.check_output(["which", "squeue"], text=True).strip()
    (tmp_path / "bin/squeue").write_text(f'#!/bin/sh\necho called >>{tmp_path}/calls\nexec {real} "$@"\n')
    (tmp_path / "bin/squeue").chmod(0o755)
    (tmp_path / "calls").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return lambda: len((tmp_path / "calls").read_text().splitlines())


def test_many_scripts_ask_slurm_once(slurm, counted):
    ident = slurm.run("sbatch", "--parsable", "-o", "/dev/null", "-J", "cw-x|y", "--wrap", "sleep 30").strip()
    code = "from cw.slurm import squeue; print(squeue.listing().rows)"
    programs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    outputs = [program.communicate(timeout=50)[0] for program in programs]
    assert all(f"ident={ident}" in output and "name='cw-x|y'" in output for output in outputs), outputs
    assert counted() == 1
    slurm.run("scancel", ident)


# --- where the master is, and what became of a worker -----------------------------------------


@pytest.mark.slow
def test_without_an_address_file_the_node_of_the_masters_job_is_looked_at(slurm):
    port = free_port()
    run("start", "-n", 1, "--Xmaster", f"--port={port}")
    os.unlink(address.address_file())
    assert cw.slurm_master_host() == f"127.0.0.1:{port}"  # the node's name does not resolve here
    with cw.ClusterExecutor() as executor:
        assert executor.submit(jobs.square, 3).result(LIMIT) == 9
    run("stop")
    with pytest.raises(LaunchError, match="there is no master of the cluster 'default' in Slurm"):
        cw.slurm_master_host()


@pytest.mark.slow
def test_a_worker_that_dies_says_where_in_its_log(slurm):
    run("start", "-n", 1)
    (worker,) = standing().workers
    os.kill(int(worker["name"].rpartition(":")[2]), 9)
    place = Location.parse(worker["location"])
    (log,) = Path(os.environ["CW_HOME"]).glob(f"slurm-default/logs-*/workers-{place.job}-{place.node}.log")
    wait_until(lambda: f"the worker in {place} died: signal 9" in log.read_text(), LIMIT, log.read_text)
    wait_until(lambda: "has failed" in run("status")[0], 40, slurm.queue)
    run("stop")


# --- in containers ----------------------------------------------------------------------------


def image_of_this_machine(directory):
    """Make an image for Apptainer: this machine's system, without its users' files. Returns the arguments for it."""
    for name in ("usr", "etc", "proc", "sys", "dev", "tmp", "var/tmp", "root", "home"):
        (directory / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (directory / name).symlink_to(f"usr/{name}")
    (directory / "etc/passwd").touch()
    (directory / "etc/group").touch()
    bound = {"/usr", sys.prefix, sys.base_prefix, str(ROOT)}
    python = os.path.dirname(sys.executable)
    return [*(f"--bind={path}:{path}:ro" for path in sorted(bound)), f"--env=PATH={python}:/usr/bin"]


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("apptainer") and os.environ.get("APPTAINER") != "all",
    reason="Apptainer is not installed here: apt-get install apptainer, of Debian's release sid",
)
def test_workers_in_apptainer(slurm, tmp_path, monkeypatch):
    for name in ("home", "scratch"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    image = tmp_path / "image"
    arguments = ["--userns", *image_of_this_machine(image), "--env=ODD=a 'b'"]
    (image / "only-inside").touch()
    cluster = cw.slurm.start(2, apptainer_image=str(image), apptainer_args=arguments)
    assert cluster.connected == 2

    def look(name):
        Path(name).touch()
        return {
            "inside": os.path.exists("/only-inside"), "outside": os.path.exists("/opt"), "odd": os.environ["ODD"],
            "read-only": os.statvfs(os.environ["CW_HOME"]).f_flag & os.ST_RDONLY, "scratch": tempfile.gettempdir(),
            "home": os.path.expanduser("~"),
        }  # fmt: skip

    with cw.ClusterExecutor() as executor:
        assert executor.submit(look, tmp_path / "home/by-the-job").result(LIMIT) == {
            "inside": True, "outside": False, "odd": "a 'b'", "read-only": os.ST_RDONLY,
            "scratch": str(tmp_path / "scratch"), "home": str(tmp_path / "home"),
        }  # fmt: skip
    assert (tmp_path / "home/by-the-job").exists()
    cluster.stop()


@pytest.mark.slow
def test_the_scripts_on_the_screen_can_be_submitted_by_hand(slurm, tmp_path):
    out, _ = run("start", "--dry-run", "-n", 3, "--time", "10", "--Xworkers=--comment=it's 100% $odd")
    assert not slurm.queue() and out.count("#!/bin/bash") == 3  # pieces of 2 and 1
    assert "--ntasks=2" in out and "--ntasks=1" in out and "--time=10" in out
    slurm.run("bash", "-ec", out)
    wait_until(lambda: slots() == 3, LIMIT, standing)
    assert "it's 100% $odd" in slurm.run("squeue", "-h", "-o", "%k")
    slurm.run("scancel", "-u", str(os.getuid()))
    wait_until(lambda: not slurm.queue(), LIMIT, slurm.queue)


# --- as a user has it -------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_about_slurm_typed_line_by_line(monkeypatch, tmp_path):
    """By somebody whose home directory is empty."""
    page = ROOT / "docs" / "slurm.md"
    start, status, scale, stop = pages.snippet_with(page, "start -n 32", "sh").text.splitlines()
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "script.py").write_text(pages.snippet_with(page, '["--time=10"]').text)
    (tmp_path / "home").mkdir()
    (tmp_path / "use.py").write_text(
        "import cw\nwith cw.ClusterExecutor() as e: print(sum(e.map(abs, range(-40, 0))))\n"
    )
    for name in ("CW_HOME", "CW_CREDENTIAL"):
        monkeypatch.delenv(name)
    with sandbox.Sandbox(nodes=4, cpus=16) as slurm:
        more = {
            **slurm.environment,
            "HOME": str(tmp_path / "home"),
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
        }
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        told = {}
        for line in (start, status, "python use.py", scale, "python script.py", stop):
            process = subprocess.run(["bash", "-c", line], cwd=tmp_path, env={**os.environ, **more},
                                     stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=55)  # fmt: skip
            assert process.returncode == 0 and "Traceback" not in process.stderr, line + process.stderr
            told[line] = process.stdout
        assert "32 of 32 slots are up" in told[start] and "slots connected: 32\n" in told[status]
        assert "left\n" in told[status] and "for 16 more slots" in told[scale]
        assert (told["python use.py"], told["python script.py"]) == ("820\n", "328350\n")
        assert "stopped; 0 jobs were running" in told[stop]
        wait_until(lambda: not slurm.queue(), LIMIT, slurm.queue)


@pytest.mark.slow
def test_the_example_runs_in_slurm_from_within_an_allocation(slurm, tmp_path):
    """What a job's environment says of its own size does not reach the jobs that it submits."""
    python = f"{sys.executable} {ROOT / 'examples/on_slurm.py'}"
    slurm.run("sbatch", "-n", "2", "-o", f"{tmp_path}/out", "-J", "mine", "--wrap", python)
    wait_until(lambda: not slurm.queue(), 50, slurm.queue)
    out = (tmp_path / "out").read_text()
    assert out.startswith("4 slots\n9592 primes below 100000\nn"), out
