"""Signs of a batch system on this machine."""

import os

import pytest

from cw import advice
from cw.launch import batch_signs


@pytest.fixture(autouse=True)
def laptop(monkeypatch, tmp_path):
    """No sign."""
    for variable in [name for name in os.environ if name.startswith(batch_signs.PREFIXES)]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(batch_signs, "DIRECTORIES", (str(tmp_path / "etc" / "slurm"),))
    assert batch_signs.find() == ""


@pytest.mark.parametrize("command", batch_signs.SLURM + batch_signs.OTHERS)
def test_commands_of_a_batch_system_show_it(command, tmp_path):
    (tmp_path / command).touch(0o755)
    assert batch_signs.find() == f"{command} is on the PATH"


@pytest.mark.parametrize("variable", ["SLURM_CONF", "PBS_ENVIRONMENT", "LSF_BINDIR", "SGE_ROOT"])
def test_variables_of_a_batch_system_show_it(variable, monkeypatch):
    monkeypatch.setenv(variable, "x")
    assert batch_signs.find() == f"{variable} is set"


def test_a_directory_of_a_batch_system_shows_it(tmp_path):
    (tmp_path / "etc" / "slurm").mkdir(parents=True)
    assert batch_signs.find() == f"there is {tmp_path}/etc/slurm"


@pytest.mark.parametrize(("sign", "how"), [("SLURM_CONF is set", f"`{advice.command('slurm', 'start', '-n', '8')}`"),
                                           ("qsub is on the PATH", f"`{advice.module('master')}`")])  # fmt: skip
def test_the_refusal_says_what_it_saw_and_what_to_do(sign, how):
    text = batch_signs.refusal(sign)
    assert f"({sign})" in text and how in text and "local=4" in text
