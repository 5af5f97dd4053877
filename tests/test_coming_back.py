"""A script leaves, and its user comes back: in a program, by the same script again, and in the shell."""

import subprocess
import sys
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, wait

from conftest import wait_until
from programs import LIMIT, run_script, start_script

import cw

SCRIPT = """
    import os, sys, time
    import cw

    def work(n):
        with open("ran", "a") as file:
            file.write(f"{n}\\n")
        print("works on", n, flush=True)
        end = time.monotonic() + 60
        while not os.path.exists(f"go-{n}") and time.monotonic() < end:
            time.sleep(0.01)
        if n == 3:
            raise ValueError("three")
        return n * n

    if __name__ == "__main__":
        if "leave" in sys.argv:
            with cw.ClusterExecutor(store="sweep.cw", detach=True) as executor:
                for n in range(5):
                    executor.submit(work, n)
        else:
            results = cw.map(work, range(6), store="sweep.cw", return_exceptions=True, output="drop")
            print([repr(result) for result in results])
"""


def runs(*arguments):
    done = subprocess.run([sys.executable, "-m", "cw", "runs", *arguments], capture_output=True, text=True)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def test_whoever_comes_back_gets_each_result_and_no_call_runs_twice(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CW_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with cw.mp.allocate(2) as cluster:
        monkeypatch.setenv("CW_MASTER", cluster.master)
        run_script(tmp_path, SCRIPT.replace('if "leave" in sys.argv', "if True"), CW_MASTER=cluster.master)
        with cw.attach("sweep.cw") as run, start_script(tmp_path, SCRIPT, CW_MASTER=cluster.master) as again:
            assert [future.args for future in run.futures] == [(n,) for n in range(5)]
            assert run.state == "with its steward"
            wait_until(lambda: len((tmp_path / "ran").read_text().split()) == 2, LIMIT)
            (tmp_path / "go-0").touch()
            done, others = wait(run.futures, LIMIT, FIRST_COMPLETED)
            assert [future.result() for future in done] == [0] and len(others) == 4
            assert "sweep  with its steward" in runs()[1]
            for n in range(1, 6):
                (tmp_path / f"go-{n}").touch()
            found = [future.exception() or future.result() for future in run.as_completed(LIMIT)]
            assert sorted(map(repr, found)) == ["0", "1", "16", "4", "ValueError('three')"]
            assert again.wait() == 0, again.err
            assert again.out == "['0', '1', '4', \"ValueError('three')\", '16', '25']\n"
            assert run.wait(LIMIT) and run.counts() == (5, 4, 1, 0, 0)
    assert Counter((tmp_path / "ran").read_text().split()) == Counter(map(str, range(6)))
    assert "works on 4\n" in capfd.readouterr().out  # as it came
    status, text = runs("wait", "sweep")
    assert status == 1 and text == "the run sweep has ended: 4 of 5 calls done, 1 failed\n"
    printed = runs("output", "sweep")[1].splitlines()  # (the first two may have printed to the script)
    assert sorted(printed)[-3:] == [f"works on {n}" for n in (2, 3, 4)]
    assert runs("forget", "sweep")[0] == 0 and runs() == (0, "no runs\n")
    assert len(cw.results("sweep.cw")) == 6
