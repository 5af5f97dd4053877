"""The master in a job of workers, where nodes are given whole: which job that is, and what becomes of it."""

import os
import re
import signal
import subprocess
import time
from types import SimpleNamespace

import jobs
import pytest
import sandbox
from conftest import wait_until
from programs import LIMIT
from test_batch_system import Row
from test_slurm import run, slots, standing, used
from test_succession import HOUR, answer_of, master, table  # noqa: F401  (fixtures)

import cw
from cw.elastic.plan import Piece, Stage
from cw.launch import shell_lines
from cw.launch.launcher import LaunchError
from cw.launch.plan import Plan
from cw.location import Location
from cw.slurm import batch, ending, hosting, submitted, succession, supply
from cw.slurm.submitted import State

WHOLE = Plan("default", 8, is_whole=True, is_whole_for_all=True, node_slots=4)


@pytest.mark.parametrize(
    ("changes", "own", "beside"),
    [
        ({}, 4, [4]),
        ({"slots": 3}, 3, []),
        ({"piece": 2}, 2, [2, 2, 2]),
        ({"is_whole_for_all": False}, 0, [4, 4]),
        ({"has_local_master": True}, 0, [4, 4]),
        ({"master_options": ["--partition=login"]}, 0, [4, 4]),  # the user says where it is
        ({"master_options": ["--port", "0"], "batch_options": ["--comment=x"]}, 4, [4]),
        ({"most": 12, "slots": 0}, 4, []),
        ({"most": 12, "least": 8, "slots": 0}, 4, [4]),
        ({"most": 3, "slots": 0, "piece": 4}, 0, []),
    ],
)
def test_the_first_piece_of_whole_nodes_has_the_master(changes, own, beside):
    plan = WHOLE._replace(**changes)
    assert hosting.slots_of_master(plan, True, True) == own
    assert hosting.sizes_beside(plan, own) == beside
    assert hosting.slots_of_master(plan, True, False) == hosting.slots_of_master(plan, False, True) == 0


def begin(table, **options):  # noqa: F811
    """A master's job with 4 slots, which runs for two hours from now, and another piece that waits."""
    with submitted.locked("default") as state:
        state.begin()
        state.plans = dict.fromkeys(("master", "workers"), WHOLE._replace(**options))
        state.submit("master", slots=4, stays=True)
        state.submit("workers", slots=4)
    now = time.time()
    table.own_job = 1
    table.set_state(1, "running", start=now, end=now + 2 * HOUR)
    return State.load("default"), now


def roles():
    return {job.ident: (job.role, job.slots) for job in State.load("default").jobs}


def test_its_job_is_among_those_with_workers_and_its_script_has_both(table):  # noqa: F811
    state, _ = begin(table, idle=60.0)
    assert [job.ident for job in state.with_workers()] == [1, 2]
    first, second = table.requests
    assert (first.role, first.has_workers, first.plan.slots, first.plan.idle) == ("master", True, 4, 0.0)
    assert (second.role, second.has_workers, second.plan.idle) == ("workers", False, 60.0)
    text = batch.host_script(first).text
    assert (
        text.index(" cw.master & master=$!")
        < text.index("cw.slurm.sidecar watch")
        < text.index("srun --nodes")
    )
    assert "--ntasks=4" in batch.host_script(first).arguments
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("event", "status"), [("", 7), ("handed over", 9), ("SIGTERM", 9)], ids=["ends", "handed-over", "signal"]
)
def test_the_job_ends_with_its_master_unless_its_workers_go_on(tmp_path, event, status):
    mark = tmp_path / f"{shell_lines.HANDED_OVER}5"
    script = [
        "trap 'is_over=1' TERM",
        "(read -r _ <gate; exit 7) & master=$!",
        "(sleep 0.2; exit 9) &",
        batch._HOST.replace("MARK", shell_lines.HANDED_OVER),
        "exit $status",
    ]
    os.mkfifo(tmp_path / "gate")
    environment = {**os.environ, "CW_LOGS": str(tmp_path), "SLURM_JOB_ID": "5"}
    process = subprocess.Popen(["bash", "-c", "\n".join(script)], cwd=tmp_path, env=environment)
    with open(tmp_path / "gate", "w") as gate:  # waits until the master is there
        if event == "handed over":
            mark.touch()
        if event == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        gate.write("\n")
    assert process.wait(LIMIT) == status


def test_when_a_follower_has_taken_over_the_workers_go_on_and_the_first_master_ends(table, master):  # noqa: F811
    state, now = begin(table)
    succession.Succession("default", state.token).look(now + HOUR + 1)
    assert table.requests[-1].has_workers and roles()[3] == ("master", 4)
    with subprocess.Popen(["sleep", "60"]) as first:
        hosting.leave("default", state.token, first.pid)
        assert first.poll() is None
        table.own_job = 3
        table.set_state(3, "running", start=now + HOUR + 5, end=now + 3 * HOUR)
        follower = succession.Succession("default", state.token)
        master.answer = answer_of(3)
        follower.look(now + HOUR + 5)
        assert table.states() == ["running", "waiting", "running"]
        assert roles() == {1: ("workers", 4), 2: ("workers", 4), 3: ("master", 4)}
        hosting.leave("default", state.token, first.pid)  # in the job of the follower
        assert first.poll() is None
        table.own_job = 1
        hosting.leave("default", state.token, first.pid)
        assert first.wait(LIMIT) == -signal.SIGTERM
    assert os.path.exists(f"{state.logs}/{shell_lines.HANDED_OVER}1")


def test_a_job_that_has_ended_is_forgotten_and_one_that_waits_is_cancelled(table):  # noqa: F811
    begin(table)
    with submitted.locked("default") as state:
        state.submit("master", follows=1, slots=4, stays=True)
        hosting.hand_over(state, 1, state.rows())
        table.set_state(1, "ended")
        hosting.hand_over(state, 3, state.rows())
    assert roles() == {2: ("workers", 4)} and table.states() == ["ended", "waiting", "ended"]


def test_a_master_that_answers_has_begun_whatever_the_batch_system_said_before(table):  # noqa: F811
    begin(table)
    table.set_state(1, "waiting")
    with submitted.locked("default") as state:
        hosting.hand_over(state, 1, state.rows(), answer_of(1))
    assert roles() == {1: ("workers", 4), 2: ("workers", 4)} and table.states() == ["waiting", "waiting"]


def test_the_end_of_all_masters_by_name_spares_a_job_that_was_handed_over(table):  # noqa: F811
    begin(table)
    with submitted.locked("default") as state:
        hosting.hand_over(state, 1, state.rows())
        state.cancel_all(["master"])
        assert table.states() == ["running", "waiting"]
        state.cancel_all(["workers"])
        assert table.states() == ["ended", "ended"]


def test_a_follower_ends_when_only_its_own_workers_are_left_and_no_job(table, master):  # noqa: F811
    _, now = begin(table)
    with submitted.locked("default") as state:
        state.submit("master", follows=1, slots=4, stays=True)
        state.cancel([job for job in state.jobs if job.ident < 3])
    table.own_job = 3
    table.set_state(3, "running", start=now, end=now + 3 * HOUR)
    own = {"location": "table//3//n1", "left": None}
    master.answer = SimpleNamespace(**vars(answer_of(3, own)), waiting=1, running=0)
    follower = succession.Succession("default", state.token)
    for clock in range(0, 200, 5):
        follower.look(now + clock)
    assert not master.sent
    master.answer.waiting = 0
    for clock in range(200, 300, 5):
        follower.look(now + clock)
        if master.sent:
            break
    assert [message.reason for message in master.sent] == ["no job of its workers is left"]


def test_only_workers_can_be_ended_while_the_master_goes_on(table, master):  # noqa: F811
    begin(table, is_renewed=True)
    with submitted.locked("default") as state:
        state.submit("master", follows=1, slots=4, stays=True)
    assert "their master goes on" in ending.stop("default", 0.0, ["workers"])
    assert roles() == {1: ("master", 0)}  # another one, without workers, will follow in time
    assert table.without_workers == [1] and table.states() == ["running", "ended", "ended"]


def test_workers_of_a_master_that_waits_cannot_be_ended_alone(table, master):  # noqa: F811
    begin(table)
    table.set_state(1, "waiting")
    with pytest.raises(LaunchError, match=r"has not begun: end both \(`.* slurm stop`\)"):
        ending.stop("default", 0.0, ["workers"])
    assert table.states() == ["waiting", "waiting"] and not State.load("default").is_stopping


def test_a_change_of_size_counts_its_slots_and_leaves_it_alone(table, master):  # noqa: F811
    begin(table)
    assert "Table job 2 taken back; 4 slots stay, as the master is in their job" in cw.slurm.scale(2)
    assert cw.slurm.scale(4) == "it has 4 slots already"
    assert cw.slurm.scale(8) == "Table job 3 for 4 more slots"
    assert roles() == {1: ("master", 4), 3: ("workers", 4)}


def test_it_is_a_piece_that_stays_of_an_elastic_cluster(table):  # noqa: F811
    _, now = begin(table)
    with submitted.locked("default") as state:
        state.submit("master", follows=1, slots=4, stays=True)
    found = supply.look(state, state.rows(), {1: [False]}, now)
    assert found.pieces[""] == [Piece(1, 4, Stage.RUNNING, True), Piece(2, 4, Stage.WAITING)]
    found = supply.look(state, {}, {1: [False]}, now)  # its worker has joined before it is listed
    assert found.pieces[""][0].stage is Stage.RUNNING
    row = Row(1, state.jobs[0].name, "ended")
    found = supply.look(state, {**state.rows(), 1: row}, {}, now)
    assert found.ended == [] and len(found.jobs) == 3


# --- in a real Slurm --------------------------------------------------------------------------------

real = pytest.mark.skipif(
    not sandbox.is_installed() and os.environ.get("CI") != "true", reason=sandbox.HOW_TO_GET_IT
)


@pytest.fixture
def slurm(monkeypatch):
    settings = ["PartitionName=whole Nodes=n1,n2,n3 OverSubscribe=EXCLUSIVE"]
    with sandbox.Sandbox(nodes=3, cpus=2, settings=settings) as slurm:
        yield from used(slurm, monkeypatch)


def nap(seconds):
    time.sleep(seconds)
    return int(os.environ["SLURM_JOB_ID"])


def active(slurm):
    return {int(ident): state for ident, state, _ in slurm.queue() if state != "COMPLETING"}


@real
def test_no_node_is_for_the_master_alone_and_its_workers_take_another_one(slurm):
    out, _ = run("start", "-n", 4, "--partition", "whole")
    assert "4 of 4 slots are up" in out
    first, second = sorted(active(slurm))
    assert Location.parse(standing().location).job == str(first)
    assert f"master and workers (2 slots): Slurm job {first} runs on n" in run("status")[0]
    with cw.ClusterExecutor() as executor:
        assert {future.result(LIMIT) for future in [executor.submit(nap, 0.5) for _ in range(4)]} == {
            first,
            second,
        }
        run("stop", "-W")
        assert standing() is None and sorted(active(slurm)) == [first, second]
        run("start", "-W", "--partition", "whole")
        assert executor.submit(nap, 0).result(LIMIT) in (first, second)
        wait_until(lambda: slots() == 4, LIMIT, standing)
    assert "stopped" in run("stop")[0]


@real
@pytest.mark.slow
@pytest.mark.timeout(200)
def test_an_elastic_cluster_grows_beside_its_masters_piece_and_ends_when_it_is_not_used(slurm):
    out, _ = run("start", "--max", 6, "--partition", "whole", "--idle", 3)
    assert "2 of 2 slots are up" in out
    (first,) = active(slurm)
    with cw.ClusterExecutor() as executor:
        assert len({future.result(LIMIT) for future in [executor.submit(nap, 1) for _ in range(16)]}) >= 2
        wait_until(lambda: list(active(slurm)) == [first], LIMIT, slurm.queue)
        time.sleep(4)
        assert executor.submit(nap, 0).result(LIMIT) == first  # it does not end while a program is connected
    wait_until(lambda: not active(slurm), LIMIT, slurm.queue)
    out, _ = run("status", status=1)
    ended = r"for 3 s, and no program was connected; used \d+ of \d+ slot-seconds \(\d+ %\) \(logs"
    assert re.search(ended, out), out  # of all workers, the master's own among them


@real
@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_follower_takes_over_while_a_job_runs_in_the_first_masters_job(slurm, tmp_path):
    run("start", "-n", 2, "--partition", "whole", "--time", 1)
    (first,) = active(slurm)
    with cw.ClusterExecutor() as executor:
        future = executor.submit(jobs.until, tmp_path / "go", first)
        run("scale", "-n", 4)  # these end later
        place = f"/{first}"
        wait_until(lambda: (found := standing()) and not found.location.endswith(place), 60, slurm.queue)
        wait_until(lambda: slots() >= 4, LIMIT, standing)
        (tmp_path / "go").touch()
        assert future.result(LIMIT) == first and active(slurm)[first] == "RUNNING"
    assert not standing().lost
    out, _ = run("status")
    assert out.count("master and workers (2 slots): Slurm job") == 1
    assert f"\nworkers (2 slots): Slurm job {first}" in out
    run("stop")
