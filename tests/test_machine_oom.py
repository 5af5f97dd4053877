"""The kernel's counters of processes that it has killed for lack of memory."""

from cw.machine.oom import OomKills


def test_the_counter_of_the_own_group_decides(tmp_path):
    (tmp_path / "groups").write_text("0::/a\n")
    (tmp_path / "vmstat").write_text("pgfault 9\noom_kill 5\n")
    (tmp_path / "root/a").mkdir(parents=True)
    events = tmp_path / "root/a/memory.events"
    events.write_text("low 0\nmax 3\noom 1\noom_kill 1\n")
    kills = OomKills(str(tmp_path / "groups"), str(tmp_path / "root"), str(tmp_path / "vmstat"))
    assert not kills.are_new()
    (tmp_path / "vmstat").write_text("pgfault 9\noom_kill 6\n")  # another program's
    assert not kills.are_new()
    events.write_text("low 0\nmax 9\noom 2\noom_kill 2\n")
    assert kills.are_new() and not kills.are_new()


def test_without_one_the_machines_counts(tmp_path):
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("oom_kill 5\n")
    kills = OomKills(str(tmp_path / "none"), str(tmp_path), str(vmstat))
    vmstat.write_text("oom_kill 6\n")
    assert kills.are_new() and not kills.are_new()
    vmstat.unlink()
    assert not kills.are_new()


def test_the_groups_of_older_systems(tmp_path):
    (tmp_path / "groups").write_text("2:memory:/x\n")
    (tmp_path / "root/memory/x").mkdir(parents=True)
    control = tmp_path / "root/memory/x/memory.oom_control"
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    kills = OomKills(str(tmp_path / "groups"), str(tmp_path / "root"))
    control.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert kills.are_new()
