"""The user's settings for clusters in Slurm: what counts, and what is told of a file that is not as it should be."""

import os
from pathlib import Path

import pytest

from cw.launch.options import ClusterOptions
from cw.slurm import profiles, starting

FILE = """
[defaults]
account = "physics"
time = 30
renew = true
setup = "module load gcc"
batch_options = ["--comment=all"]

[profiles.gpu]
partition = "gpu"
mem-per-cpu = "4G"
account = "vision"
renew = false
setup = ["module load cuda", "ulimit -c 0"]
worker_options = ["--max-jobs=9"]

[profiles.long]
time = "7-0"
"""


def write(text):
    home = Path(os.environ["CW_HOME"])
    home.mkdir(0o700, exist_ok=True)
    (home / "slurm.toml").write_text(text)


def filled(**given):
    return profiles.fill(ClusterOptions(2, **given))


def test_without_a_file_the_options_stay_as_they_are():
    assert filled(account="a") == ClusterOptions(2, account="a")


def test_the_call_counts_before_the_profile_and_that_before_the_defaults():
    write(FILE)
    assert (filled().account, filled().time, filled().renew) == ("physics", "30", True)
    gpu = filled(profile="gpu")
    assert (gpu.account, gpu.partition, gpu.mem_per_cpu, gpu.time) == ("vision", "gpu", "4G", "30")
    assert gpu.renew is False and filled(profile="gpu", renew=True).renew is True
    assert filled(renew=False).renew is False and filled(account="").account == ""
    assert filled(profile="gpu", account="mine", time="5").account == "mine"


def test_lists_add_up_and_the_call_comes_last():
    write(FILE)
    gpu = filled(profile="gpu", setup="cd /data", batch_options=["--comment=mine"], worker_options=["-v"])
    assert gpu.setup == ["module load gcc", "module load cuda", "ulimit -c 0", "cd /data"]
    assert gpu.batch_options == ["--comment=all", "--comment=mine"]
    assert gpu.worker_options == ["--max-jobs=9", "-v"] and filled().worker_options == ()


def test_a_plan_has_what_the_file_says():
    write(FILE)
    plan = starting.make_plan(ClusterOptions(2, profile="gpu", constraint="a100"))
    assert (plan.account, plan.partition, plan.constraint, plan.profile) == ("vision", "gpu", "a100", "gpu")
    assert plan.setup == ["module load gcc", "module load cuda", "ulimit -c 0"] and not plan.is_renewed


def test_a_reader_is_told_what_comes_from_the_file():
    write("[defaults]\naccount = 'a'\ntime = '5'\n[profiles.x]\nqos = 'high'\n[profiles.y]\n")
    where = profiles.path()
    assert profiles.origins("x") == [
        f"[defaults] of {where} gives account, time",
        f"[profiles.x] of {where} gives qos",
    ]
    assert len(profiles.origins("y")) == 1 == len(profiles.origins(""))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[defaults]\nacount = 'a'",
            r"\[defaults\] has what is not known: acount \(is it account\?\); known are ",
        ),
        (
            "[profiles.gpu]\nzzz = 1\nnworkers = 3",
            r"\[profiles.gpu\] has what is not known: zzz, nworkers; known are",
        ),
        (
            "[default]\ntime = '1'",
            r"it has what is not known: default \(is it defaults\?\); known are ",
        ),
        ("time = '1'", "it has what is not known: time; known are defaults, profiles"),
        ("defaults = 3", r"defaults is no table: begin it with a line \[defaults\]"),
        ("profiles = 3", r"begin each profile with a line \[profiles.NAME\]"),
        ("[profiles]\ngpu = 3", r"profiles.gpu is no table: begin it with a line \[profiles.gpu\]"),
        ("[defaults]\ntime = 2:00:00", "is no TOML: .*line 2"),
        ("[defaults]\ntime = 02:00:00", r"time of \[defaults\] is datetime.time.*: give time = \"\.\.\.\""),
        ("[defaults]\nrenew = 'yes'", "renew of .* is 'yes': give renew = true or false"),
        ("[defaults]\naccount = ['a']", "account of .*: give account = "),
        ("[defaults]\nbatch_options = '--nice'", "batch_options of .* is '--nice': give batch_options = "),
        ("[defaults]\nsetup = [1]", "setup of .*: give setup = "),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_what_is_right(text, told):
    write(text)
    with pytest.raises(ValueError, match=told) as caught:
        filled()
    assert str(caught.value).startswith(profiles.path())


def test_a_profile_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(
        ValueError, match=r"there is no profile 'gpu' .*: write its options there, under \[profiles.gpu"
    ):
        filled(profile="gpu")
    write(FILE)
    with pytest.raises(ValueError, match="there is no profile 'cpu' in .*: it has gpu, long"):
        filled(profile="cpu")


def test_a_file_that_cannot_be_read_is_told():
    write("")
    path = Path(profiles.path())
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="cannot be read"):
        filled()
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        filled()


def test_all_options_of_jobs_in_slurm_may_be_in_the_file():
    kinds = {key: profiles._kind(key)[0] for key in profiles.KEYS}
    assert {"text", "flag", "list"} <= set(kinds.values())
    examples = {"text": '"x"', "flag": "true", "list": '["x"]', "number": "3"}
    write("[defaults]\n" + "\n".join(f"{key} = {examples[kind]}" for key, kind in kinds.items()))
    made = filled()
    assert all(getattr(made, key) for key in profiles.KEYS)
