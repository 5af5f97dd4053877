"""The CPUs that a process may use."""

import os

import pytest

from cw import cpus


def limits(tmp_path, groups, **files):
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "root" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return [*cpus._limits(str(tmp_path / "groups"), str(tmp_path / "root"))]


def test_the_limits_of_a_group_and_of_those_above_it(tmp_path):
    assert limits(tmp_path, "0::/a/b\n", a__cpu_max="300000 100000\n", a__b__cpu_max="150000 100000\n") == [
        1.5,
        3.0,
    ]


def test_a_container_sees_its_own_group_as_the_root(tmp_path):
    assert limits(tmp_path, "0::/../..\n", cpu_max="200000 100000\n") == [2.0]


def test_no_limit_is_none(tmp_path):
    assert limits(tmp_path, "0::/a\n", a__cpu_max="max 100000\n") == []
    assert limits(tmp_path, "nonsense\n".replace("nonsense", "1:name=systemd:/")) == []


def test_the_groups_of_older_systems(tmp_path):
    files = {"cpu,cpuacct__x__cpu_cfs_quota_us": "-1\n", "cpu,cpuacct__x__cpu_cfs_period_us": "100000\n",
             "cpu,cpuacct__cpu_cfs_quota_us": "400000\n", "cpu,cpuacct__cpu_cfs_period_us": "100000\n"}  # fmt: skip
    assert limits(tmp_path, "4:cpu,cpuacct:/x\n2:memory:/x\n", **files) == [4.0]


@pytest.mark.parametrize(("limit", "count"), [(0.5, 1), (1.5, 1), (1e6, len(os.sched_getaffinity(0)))])
def test_the_least_of_affinity_and_limits_counts_and_is_one_at_least(limit, count, monkeypatch):
    monkeypatch.setattr(cpus, "_limits", lambda: [limit])
    assert cpus.usable_cpus() == count
