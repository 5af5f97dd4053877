"""A snapshot as the tables of `cw top`. The values are those of the sample, by hand."""

from dataclasses import replace

from snapshots import SESSIONS, WORKERS, sample, shaped

from cw.observer.model import Snapshot
from cw.top import tables


def texts_of(table):
    return [tuple(cell.text.strip() for cell in row.cells) for row in table.rows]


def test_functions_show_progress_and_time_left():
    simulate, _, fit = texts_of(tables.functions(sample()))
    # 2000 done and 3 failed of 3010: 66.5 %
    assert simulate[:8] == ("simulate", "█████▍   66 %", "5 min 30 s", "7", "1000", "2000", "3", "3.0/s")
    assert simulate[8:] == ("2.2 s", "4.5 s", "sim.py on login1, pid 4711")
    assert fit[2] == fit[8] == fit[9] == ""  # not known yet
    assert tables.functions(sample()).rows[0].key == f"{SESSIONS[0]}/simulate"


def test_workers_show_what_is_out_of_the_ordinary():
    first, drains, away = texts_of(tables.workers(sample()))
    assert first[:7] == ("node7:100", "████████ 4/4", "", "3.9", "2.0 GiB", "1.5/s", "1000")
    assert drains[2] == "drains"
    assert away[2] == "away: its connection broke" and away[7] == "50 min 00 s"
    lost = replace(sample().workers[1], is_draining=False)
    assert tables.worker_state(lost) == ("lost a runner: SIGKILL 90 s ago", "bad")


def test_many_workers_are_summed_by_host():
    hosts = texts_of(tables.workers(replace(sample(), workers=())))
    assert hosts[0] == ("node7", "████████ 8/8", "2", "3.9", "3.0 GiB", "3.0/s", "1900")


def test_where_jobs_need_more_than_one_cpu_workers_show_what_is_taken():
    table = tables.workers(shaped())
    assert table.columns[:6] == ("worker", "slots", "cpus#", "gpus#", "asked#", "state")
    first, drains, _ = texts_of(table)
    assert first[2:5] == ("10/16", "1.5/2", "8GB/64GB") and drains[2:6] == ("4/4", "", "", "drains")
    assert [row.cells[2].sort for row in table.sorted_by(2).rows] == [1, 4, 10]
    hosts = tables.workers(replace(shaped(), workers=()))
    assert texts_of(hosts)[0][:6] == ("node7", "████████ 8/8", "10/16", "1.5/2", "8GB/64GB", "2")
    cluster = texts_of(tables.cluster(shaped()))
    assert {("cpus", "10/16"), ("gpus", "1.5/2"), ("asked", "8GB/64GB")} <= set(cluster)
    assert ("jobs need", "1 CPU: 7 run, 1000 wait, median 2.2 s") in cluster
    assert not {"cpus", "jobs need"} & {row[0] for row in texts_of(tables.cluster(sample()))}


def test_a_column_that_is_there_no_more_sorts_nothing():
    table = tables.workers(sample())
    assert table.sorted_by(len(table.columns)) == table


def test_running_jobs_are_longest_first_and_those_not_listed_are_counted():
    rows = texts_of(tables.running(sample()))
    assert rows[0] == ("simulate", "#17", "12 min 34 s", "node7", "2", "sim.py on login1, pid 4711")
    assert rows[-1][0] == "and 7 more"  # of 9, 2 are listed


def test_failures_say_when_and_what():
    first, second = texts_of(tables.failures(sample()))
    assert first[:6] == (
        "30 s ago",
        "simulate",
        "#16",
        "node7",
        "ValueError: no convergence",
        "after 100 steps",
    )
    unknown = replace(sample(), failures=(replace(sample().failures[0], first=""),))
    assert texts_of(tables.failures(unknown))[0][4] == "(not known yet)"


def test_clients_say_why_their_oldest_job_waits():
    sim, fit = texts_of(tables.clients(sample()))
    assert sim[5] == "all 12 slots are busy"
    assert fit[5] == "(it is gone, and may come back)"


def test_the_cluster_has_its_batch_jobs_and_losses():
    rows = dict(texts_of(tables.cluster(sample(), [("workers", "Slurm job 7 waits (Resources)")])))
    assert rows["master"] == "login1:5494, process 4000 on login1"
    assert rows["workers"] == "Slurm job 7 waits (Resources)"
    assert rows["lost worker"] == "node9:100, 16 min 40 s ago: silent for 30 s"


def test_the_head_says_how_it_is():
    slots, jobs, why = tables.head(sample())
    assert slots == "9 of 12 busy"
    assert jobs == "9 run, 1170 wait, 2130 done, 4 failed, 3.5/s, done in about 5 min 30 s"
    assert why == "sim.py on login1, pid 4711 waits: all 12 slots are busy"


def test_a_filter_takes_rows_that_have_all_words():
    table = tables.functions(sample())
    assert [row.cells[0].text for row in table.filtered("LOGIN1 model").rows] == ["Model.analyse"]
    assert table.filtered("") is table
    assert table.filtered("nothing like it").rows == ()


def test_a_column_sorts_by_its_values_and_what_is_not_known_is_last():
    table = tables.functions(sample())
    by_left = [row.cells[0].text for row in table.sorted_by(2).rows]
    assert by_left == ["Model.analyse", "simulate", "fit"]  # 200 s, 330 s, not known: not by their texts
    by_name = [row.cells[0].text for row in table.sorted_by(0, True).rows]
    assert by_name == ["simulate", "Model.analyse", "fit"]  # whatever the case
    assert table.sorted_by(None) is table


def test_an_empty_cluster_says_what_to_do():
    nothing = Snapshot(0.0, sample().master, replace(sample().totals, running=0))
    assert "run a program" in tables.functions(nothing).empty
    assert "cw worker" in tables.workers(nothing).empty
    assert tables.running(nothing).rows == ()


def test_no_text_of_a_cluster_steers_a_terminal():
    bad = "x\x1b[2Jy\x07[red]"
    snapshot = sample()
    snapshot = replace(
        snapshot,
        functions=(replace(snapshot.functions[0], name=bad),),
        clients=(replace(snapshot.clients[0], label=bad, why_waiting=bad),),
        workers=(replace(snapshot.workers[0], name=bad, location=bad, last_loss=bad),),
        failures=(replace(snapshot.failures[0], first=bad, last=bad, host=bad, function=bad),),
        running=(replace(snapshot.running[0], function=bad, client=bad, host=bad),),
        losses=(replace(snapshot.losses[0], name=bad, how=bad, location=bad),),
        where=bad,
    )
    made = (tables.functions, tables.workers, tables.running, tables.failures, tables.clients, tables.cluster)
    for make in made:
        for row in make(snapshot).rows:
            assert all(cell.text.isprintable() for cell in row.cells), make
    assert all(line.isprintable() for line in tables.head(snapshot))
    assert WORKERS[0] == tables.workers(snapshot).rows[0].key
