"""Workers in a real Docker, in a real Slurm and started by hand."""

import os
import signal
import subprocess
from pathlib import Path

import containers
import pages
import pytest
import sandbox
from conftest import wait_until
from programs import LIMIT, ROOT, Program, free_port
from test_slurm import run, slots, standing, used

import cw
from cw.location import Location
from cw.slurm.batch import NOTICE

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="a private Docker takes root")]
if os.environ.get("CI") != "true":  # there all is installed, and a test that cannot run is a failure
    missing = [how for how, is_there in ((containers.HOW_TO_GET_DOCKER, containers.is_docker_installed()),
                                         (sandbox.HOW_TO_GET_IT, sandbox.is_installed())) if not is_there]  # fmt: skip
    pytestmark.append(pytest.mark.skipif(bool(missing), reason="; ".join(missing)))

IMAGE = "lab/cw:1"


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    root = containers.make_root(tmp_path_factory.mktemp("root"))
    with containers.Docker(tmp_path_factory.mktemp("docker")) as docker:
        docker.load(root, IMAGE)
        yield docker


@pytest.fixture(scope="module")
def shared():
    with sandbox.Sandbox(nodes=2, cpus=2, gpus=2) as shared:
        yield shared


@pytest.fixture
def slurm(shared, docker, monkeypatch, tmp_path):
    """A Slurm whose nodes have Docker, and a user with a home, a scratch directory and a project elsewhere."""
    for name in ("home", "scratch", "project"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path / "project")
    for name, value in docker.environment.items():
        monkeypatch.setenv(name, value)
    yield from used(shared, monkeypatch)
    assert docker.containers() == []


def worker_log():
    """The logs of the cluster's workers."""
    logs = Path(os.environ["CW_HOME"]).glob("slurm-default/logs-*/workers-*-n*.log")
    return "".join(log.read_text() for log in logs)


def test_in_docker_jobs_have_their_files_their_scratch_directory_and_their_gpus(slurm, tmp_path):
    def look(name):
        import pathlib
        import sys
        import tempfile

        import cw

        job = cw.current_job()
        pathlib.Path(name).write_text(str(job.gpus[0]))
        (pathlib.Path.home() / name).touch()
        return {
            "python": sys.executable, "ids": [os.getuid(), os.getgid()], "places": [os.getcwd(), tempfile.gettempdir()],
            "devices": os.environ["CUDA_VISIBLE_DEVICES"], "gpus": [str(gpu) for gpu in job.gpus],
            "odd": os.environ["ODD"],
            "read-only": os.statvfs(os.environ["CW_HOME"]).f_flag & os.ST_RDONLY,
        }  # fmt: skip

    more = ["--Xworkers=--gres=gpu:2", "--Xworkers=--mem=300M"]
    run("start", "-n", 2, "-d", IMAGE, "--docker-args", "--env 'ODD=a b'", *more)
    with cw.ClusterExecutor() as executor:
        seen = list(executor.options(gpus=1).map(look, ["one", "two"]))
    for job in seen:
        assert job["python"] == "/usr/bin/python3" and job["ids"] == [os.getuid(), os.getgid()]
        assert job["places"] == [str(tmp_path / "project"), str(tmp_path / "scratch")]
        assert job["odd"] == "a b" and job["read-only"] and job["gpus"] == [job["devices"]]
    found = {Path(tmp_path, "project", name).read_text() for name in ("one", "two")}
    assert found <= {"0", "1"} and sorted(os.listdir(tmp_path / "home")) == ["one", "two"]
    assert "2 CPUs, 315MB of memory (Slurm), GPUs 0,1 (CUDA_VISIBLE_DEVICES)" in worker_log()
    run("stop")


def test_a_container_ends_with_its_job_in_slurm(slurm, docker):
    def wait_for(path):
        import pathlib
        import time

        pathlib.Path("begun").touch()
        while not pathlib.Path(path).exists():
            time.sleep(0.02)
        return path

    run("start", "-n", 3, "--piece", 1, "--docker-image", IMAGE)
    wait_until(lambda: slots() == 3, LIMIT, standing)
    workers = standing().workers
    assert len({worker["name"] for worker in workers}) == 3 == len(docker.containers())
    with cw.ClusterExecutor() as executor:
        future = executor.submit(wait_for, "go")
        wait_until(Path("begun").exists, LIMIT, worker_log)
        # The signal to drain, for all: what runs comes to its end, in the container.
        for worker in workers:
            slurm.run("scancel", "-s", str(NOTICE), Location.parse(worker["location"]).job)
        wait_until(lambda: len(docker.containers()) == 1, LIMIT, worker_log)
        Path("go").touch()
        assert future.result(LIMIT) == "go"
    wait_until(lambda: docker.containers() == [], LIMIT, worker_log)
    run("stop")


def test_a_container_ends_when_slurm_kills_what_has_started_it(slurm, docker):
    run("start", "-n", 1, "--docker-image", IMAGE)
    (client,) = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if is_docker_run(pid)]
    os.kill(client, signal.SIGKILL)
    wait_until(lambda: docker.containers() == [], LIMIT, worker_log)
    run("stop")


def is_docker_run(pid):
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return command[:2] == [b"docker", b"run"] and IMAGE.encode() in command


def test_a_worker_in_docker_by_hand_as_the_page_says(slurm, docker, tmp_path, monkeypatch):
    """On a machine of one's own, with the credential in the home directory."""
    (tmp_path / "home/.cw").mkdir(0o700)
    monkeypatch.setenv("CW_HOME", str(tmp_path / "home/.cw"))
    monkeypatch.delenv("CW_CREDENTIAL")
    monkeypatch.chdir(tmp_path / "home")
    line = pages.snippet_with(ROOT / "docs/slurm.md", "docker run", "sh").text
    port = free_port()
    command = "exec " + line.replace("IMAGE", IMAGE).replace("node7", f"127.0.0.1:{port}")
    with Program("-m", "cw.master", "--port", port), subprocess.Popen(["bash", "-c", command]) as worker:
        try:
            with cw.ClusterExecutor(f"127.0.0.1:{port}") as executor:
                assert executor.submit(os.getcwd).result(LIMIT) == str(tmp_path / "home")
        finally:
            worker.send_signal(signal.SIGINT)
        assert worker.wait(LIMIT) == 0
    assert docker.containers() == []
