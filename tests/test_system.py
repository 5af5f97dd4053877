"""Requests to Slurm's programs that may fail for a moment."""

import pytest

from cw.launch.batch_system import Script
from cw.launch.launcher import LaunchError
from cw.slurm import system
from cw.slurm.system import Slurm

BUSY = """#!/bin/sh
echo >>"$0.calls"
[ "$(wc -l <"$0.calls")" -gt FAILURES ] || {
    echo "sbatch: error: Batch job submission failed: Resource temporarily unavailable" >&2; exit 1; }
echo 7
"""


@pytest.mark.parametrize(("failures", "calls"), [(0, 1), (2, 3), (99, 5)])
def test_sbatch_is_called_again_when_the_controller_has_no_time(tmp_path, monkeypatch, failures, calls):
    program = tmp_path / "sbatch"
    program.write_text(BUSY.replace("FAILURES", str(failures)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(system, "BUSY_SECONDS", (0.0,) * 4)
    script = Script("sbatch", [], "#!/bin/sh\n")
    if failures < 99:
        assert Slurm().submit(script) == (7, "")
    else:
        with pytest.raises(LaunchError, match="Resource temporarily unavailable"):
            Slurm().submit(script)
    assert len((tmp_path / "sbatch.calls").read_text().splitlines()) == calls
