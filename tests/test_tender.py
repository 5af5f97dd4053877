"""The tender of an elastic cluster, with a real master and workers, and a batch system that is a table."""

import contextlib
import math
import time

import jobs
import pytest
from conftest import wait_until
from programs import LIMIT, Master, Worker
from test_batch_system import Table

import cw
from cw import advice
from cw.elastic import plan as elastic_plan
from cw.launch import status_client
from cw.launch.launcher import LaunchError
from cw.launch.options import ClusterOptions
from cw.launch.plan import Plan
from cw.net import address
from cw.slurm import elastic, kinds, starting, submitted
from cw.slurm.submitted import State
from cw.slurm.tender import Tender


class Cluster:
    """An elastic cluster whose jobs are a table's."""

    def __init__(self, table, master, **options):
        self.table, self.master = table, master
        plan = starting.make_plan(ClusterOptions(name="default", **{"max": 8, "piece": 2, **options}))
        with submitted.locked("default") as state:
            state.begin()
            state.plans = {"master": plan, "workers": plan}
            state.submit("master")
        table.set_state(1, "running", "n1")
        self.tender = Tender("default", state.token)
        self.workers = contextlib.ExitStack()

    @property
    def state(self):
        return State.load("default")

    def look(self):
        """Let the tender look; the pieces' sizes by id."""
        self.tender.look()
        return {job.ident: job.slots for job in self.state.of_role("workers")}

    def look_until(self, condition):
        wait_until(lambda: condition(self.look()), LIMIT, self.look)

    def start(self, ident, *arguments):
        """Let a piece start, and its worker join."""
        self.table.set_state(ident, "running", f"n{ident}")
        self.table.rows[ident] = self.table.rows[ident]._replace(start=time.time())
        slots = next(job.slots for job in self.state.jobs if job.ident == ident)
        worker = Worker(
            self.master.address, "-n", slots, *arguments, CW_LOCATION=f"table//{ident}/0/n{ident}"
        )
        return self.workers.enter_context(worker)

    def fail(self, ident):
        now = time.time()
        self.table.rows[ident] = self.table.rows[ident]._replace(state="failed", start=now - 1, end=now)
        (log,) = [self.state.logs + f"/workers-{ident}.log"]
        with open(log, "w") as file:
            file.write("starting\nno module named numpy\n")

    def status(self):
        return cw.slurm.status("default")


@pytest.fixture
def make(monkeypatch):
    table = Table()
    monkeypatch.setattr(State, "system", table)
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(Master())

        def make(**options):
            cluster = Cluster(table, master, **options)
            stack.enter_context(cluster.workers)
            return cluster

        yield make


@contextlib.contextmanager
def waiting(cluster, number, path, already=0, **options):
    """A program with jobs that run until the path exists."""
    with cw.ClusterExecutor(cluster.master.address) as executor:
        futures = [executor.options(**options).submit(jobs.until, path, n) for n in range(number)]
        demanded = lambda: status_client.ask_demand(address.find_cluster("default"))  # noqa: E731
        wait_until(
            lambda: sum(each.waiting + each.running for each in demanded().shapes) == number + already, LIMIT
        )
        try:
            yield futures
        finally:
            for future in futures:
                future.cancel()
            path.touch()


def test_pieces_come_with_the_jobs_and_are_not_wanted_without(make, tmp_path, monkeypatch):
    cluster = make()
    assert cluster.look() == {}
    with waiting(cluster, 20, tmp_path / "go"):
        assert cluster.look() == {2: 2}  # how long they take is not known: one piece
        assert cluster.look() == {2: 2}
        cluster.start(2)
        cluster.look_until(lambda there: there == {2: 2, 3: 2})  # twice the slots
        found = cluster.status().kinds[0]
        assert (found.wanted, found.waiting, found.starting, found.running) == (4, 2, 0, 2)
        assert (found.kind, found.least, found.most, found.problem) == ("workers", 0, 8, "")
        cluster.start(3)
        cluster.look_until(lambda there: len(there) == 4)
        assert sum(cluster.look().values()) == 8
        assert 0 < cluster.state.kinds[""].start_seconds < 5
    wait_until(lambda: not status_client.ask_demand(address.find_cluster("default")).shapes, LIMIT)
    monkeypatch.setattr(elastic_plan, "EXCESS_SECONDS", 0.1)
    cluster.look_until(
        lambda there: there == {2: 2, 3: 2}
    )  # those that wait are cancelled, those that run are not
    assert cluster.table.states() == ["running"] * 3 + ["ended"] * 2


def test_pieces_that_die_at_once_pause_the_cluster_until_it_is_resumed(make, tmp_path, monkeypatch):
    cluster = make(piece=1)
    with waiting(cluster, 20, tmp_path / "go"):
        for ident in (2, 3):
            cluster.look_until(lambda there, ident=ident: list(there) == [ident])
            cluster.fail(ident)
        assert cluster.look() == {}  # the second failure: it waits for a minute
        found = cluster.status().kinds[0]
        assert "the next piece" in found.problem and found.log == "starting\nno module named numpy"
        again = Tender("default", cluster.state.token)  # one that has just started knows it, too
        again.look()
        assert cluster.look() == {}
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 61)
        cluster.look_until(lambda there: list(there) == [4])
        cluster.fail(4)
        assert cluster.look() == {}
        assert "3 died soon after their start" in cluster.status().kinds[0].problem
        assert f"`{advice.command('slurm', 'resume')}` goes on" in cluster.status().kinds[0].problem
        monkeypatch.setattr(time, "time", lambda: now + 7200)
        assert cluster.look() == {}
        assert cw.slurm.resume() == "pieces of workers are submitted again when jobs need them"
        assert list(cluster.look()) == [5]
        assert cw.slurm.resume() == "nothing is paused"


def test_a_refusal_is_told_and_tried_again_after_some_time(make, tmp_path, monkeypatch):
    cluster = make(piece=1, min=2)
    submit = cluster.table.submit
    monkeypatch.setattr(cluster.table, "submit", lambda script: refuse("over the limit of your account"))
    assert cluster.look() == {}
    failures = cluster.state.kinds[""].failures
    assert (failures.in_a_row, failures.why) == (1, "over the limit of your account")
    assert cluster.look() == {}
    monkeypatch.setattr(cluster.table, "submit", submit)
    assert cluster.look() == {}  # the second refusal: not before a minute has passed
    assert "over the limit of your account" in cluster.status().kinds[0].problem
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert cluster.look() == {2: 1}  # one is tried
    cluster.start(2)
    cluster.look_until(lambda there: there == {2: 1, 3: 1})  # the minute after the refusal is over
    monkeypatch.setattr(time, "time", lambda: now + 200)
    cluster.look()  # the first one has worked for a minute
    assert cluster.state.kinds[""].failures.in_a_row == 0


def refuse(why):
    raise LaunchError(why)


def test_jobs_find_their_kind_and_what_none_has_is_told(make, tmp_path):
    cluster = make(piece=1)
    assert "0 to 4 slots in pieces of 2" in cw.slurm.add(kind="gpu", max=4, gpus=2)
    with pytest.raises(LaunchError, match="a kind 'gpu' already"):
        cw.slurm.add(kind="gpu", max=4)
    with waiting(cluster, 3, tmp_path / "go", gpus=1), waiting(cluster, 2, tmp_path / "go", 3, gpus=4):
        cluster.look()
        (piece,) = cluster.state.of_role("workers")
        assert (piece.kind, piece.slots) == ("gpu", 2)
        assert cluster.table.requests[-1].plan.gpus == 2
        first, second = cluster.status().kinds
        assert (first.wanted, second.wanted) == (0, 2)
        (refused,) = first.refused
        assert "'gpu': the job needs 4 GPUs, and it has 2" in refused


def test_jobs_that_the_fixed_slots_of_a_cluster_run_bring_no_pieces_of_a_kind_that_was_added(make, tmp_path):
    cluster = make(max=None, nworkers=2, idle=0)
    with submitted.locked("default") as state:
        state.submit("workers", slots=2)
    assert cluster.look() == {2: 2}
    cw.slurm.add(kind="gpu", max=4, gpus=1)
    with waiting(cluster, 9, tmp_path / "go"):
        assert cluster.look() == {2: 2}
        with waiting(cluster, 1, tmp_path / "go", 9, gpus=1):
            assert cluster.look() == {2: 2, 3: 1}
    assert [kind.kind for kind in cluster.status().kinds] == ["gpu"]


def test_what_a_worker_turns_out_to_have_counts_more_than_the_options(make, tmp_path):
    """Memory is not named at the start: it might be enough for anything, until a worker has come."""
    cluster = make(piece=1)
    with waiting(cluster, 1, tmp_path / "go"):
        cluster.look()
        cluster.start(2, "--memory", "2GB")
        cluster.look_until(lambda there: cluster.state.kinds[""].offer is not None)
    with waiting(cluster, 3, tmp_path / "again", memory="4GB"):
        assert len(cluster.look()) == 1
        assert "4GB" in cluster.status().kinds[0].refused[0]


def test_limits_that_change_drain_and_cancel_what_is_above_them(make):
    cluster = make(min=6)
    assert cluster.look() == {2: 2, 3: 2, 4: 2}
    assert all(job.stays for job in cluster.state.of_role("workers"))
    cluster.start(2)
    cluster.start(3)
    cluster.look()
    assert cw.slurm.scale(min=2, max=2).startswith(
        "2 to 2 slots in pieces of 2; Table job 4 drains; Table job 3"
    )
    cluster.look_until(lambda there: 4 not in there)
    wait_until(lambda: status_client.ask(address.find_cluster("default")).slots == 2, LIMIT)
    assert cw.slurm.scale(4) == "4 to 4 slots in pieces of 2"
    cluster.table.set_state(3, "ended")  # it has drained
    cluster.look_until(lambda there: sum(there.values()) == 4)
    with pytest.raises(ValueError, match="min is 9, more than max, which is 4"):
        cw.slurm.scale(min=9)


def test_limits_for_elastic_clusters():
    def given(**options):
        return kinds.limits_given(ClusterOptions(**options))

    assert given(nworkers=4) == {"gpus": 0}
    assert given(max=4, min=1) == {"gpus": 0, "most": 4, "least": 1, "backlog": 4}
    for options, told in (
        ({"max": 4, "nworkers": 4}, "a number of slots and max"),
        ({"nworkers": 4, "min": 4}, "min is for an elastic cluster: give max, too"),
        ({"max": 4, "min": 5}, "min is 5, more than max, which is 4"),
        ({"max": 4, "isolated": True}, "an elastic cluster is of pieces"),
        ({"max": 4, "nodes": 5}, r"slurm add --help`\) adds others, with nodes for one job"),
        ({"max": 4, "workers": False}, "starts none"),
        ({"max": -1}, "max must be 0 or more"),
        ({"max": 4, "backlog": 0}, "backlog must be 1 or more"),
        ({"max": 4, "gpus": 0}, "gpus must be 1 or more"),
    ):
        with pytest.raises(ValueError, match=told):
            given(**options)
    with pytest.raises(TypeError, match="max must be an int"):
        given(max=4.5)


def test_pieces_of_several_nodes_have_one_slot_and_offer_what_each_node_has():
    def made(**options):
        return starting.make_plan(ClusterOptions(kind="mpi", max=4, **options), is_kind=True)

    plan = made(nodes=2, worker_options=["--cpus-per-task=2"])._replace(node_slots=8)
    assert (plan.nodes, plan.job_nodes, kinds.size_of(plan), kinds.first_sizes(plan)) == (0, 2, 1, [])
    offer = kinds.offer_of(plan)
    assert (offer.slots, offer.cpus, offer.nodes) == (1, 16, 2)
    assert offer.capacity().nodes == 2 and kinds.in_numbers(plan) == "0 to 4 slots of 2 nodes each"
    assert kinds.size_of(made(nodes=2, piece=8)) == 1
    with pytest.raises(ValueError, match="^nodes must be 2 or more, not 1$"):
        made(nodes=1)
    with pytest.raises(ValueError, match="^nodes and piece: .*; leave out piece "):
        cw.slurm.add(kind="mpi", max=4, nodes=2, piece=8)


def test_what_a_piece_offers_is_known_by_its_options(monkeypatch):
    options = ["--tags=fast,avx512", "--resources", "licence=3", "--cpus=16", "--memory=8GB"]
    plan = starting.make_plan(ClusterOptions(max=8, piece=4, worker_options=options))
    offer = kinds.offer_of(plan)
    assert (offer.slots, offer.cpus, offer.memory, offer.gpus) == (4, 16, 8 * 10**9, 0)
    assert (offer.tags, offer.resources, offer.seconds) == (("avx512", "fast"), (("licence", 3),), math.inf)
    plan = starting.make_plan(
        ClusterOptions(max=8, piece=4, time="1:00:00", mem_per_cpu="2G", worker_options=["--cpus-per-task=2"])
    )
    offer = kinds.offer_of(plan)
    assert (offer.cpus, offer.memory, offer.seconds) == (8, 4 * 2 * 2 * 2**30, 3600.0)
    for options, gpus in ((["--gres=gpu:a100:2"], 2), (["--gpus-per-node=v100:3"], 3), (["--gres=gpu"], 1)):
        assert kinds.offer_of(starting.make_plan(ClusterOptions(max=4, worker_options=options))).gpus == gpus
    with pytest.raises(ValueError, match="no amount"):
        kinds.offer_of(starting.make_plan(ClusterOptions(max=4, worker_options=["--resources=x"])))


def test_a_kind_has_a_name_and_a_limit(make):
    make()
    with pytest.raises(ValueError, match="is no name for a kind"):
        cw.slurm.add(kind="workers", max=4)
    with pytest.raises(ValueError, match="give max"):
        cw.slurm.add(kind="gpu")
    with pytest.raises(ValueError, match=r"kind is for cw\.slurm\.add"):
        cw.slurm.start(4, kind="gpu")
    with pytest.raises(LaunchError, match="has no elastic kind 'gpu': it has workers"):
        cw.slurm.resume(kind="gpu")
    with pytest.raises(LaunchError, match="has no elastic kind 'gpu'"):
        cw.slurm.scale(4, kind="gpu")
    with pytest.raises(LaunchError, match="there is no cluster 'other'"):
        elastic.resume("other")


def test_the_pieces_of_a_start_leave_room_for_a_whole_one_as_later_ones_do():
    def first(least, most):
        return kinds.first_sizes(Plan(name="default", slots=0, least=least, most=most, piece=4))

    assert first(3, 8) == [3] and first(5, 5) == [4, 1] and first(0, 4) == []
    assert first(3, 4) == [4]


def test_programs_whose_jobs_wait_hear_of_a_renewal_that_fails_in_any_cluster(make, tmp_path, caplog):
    cluster = make(max=None, nworkers=2)
    with waiting(cluster, 1, tmp_path / "go"):
        assert cluster.look() == {}
        with submitted.locked("default") as state:
            state.note_problem("follower of 1", "no job follows Table job 1 (master) yet: too many jobs")
        assert cluster.look() == {}
        wait_until(lambda: "Table job 1 (master) yet: too many jobs" in caplog.text, LIMIT)
