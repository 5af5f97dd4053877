"""The memory that processes hold."""

import mmap
import os
import subprocess
import sys

from conftest import wait_until

from cw.machine import process_memory

MIB = 2**20
HOLD = "import sys; held = bytearray({size}); sys.stdout.write('.'); sys.stdout.flush(); sys.stdin.read()"


def test_the_memory_of_a_process_and_its_descendants():
    inner = f"[sys.executable, '-c', {HOLD.format(size=40 * MIB)!r}]"
    code = f"import subprocess, sys; subprocess.run({inner})"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as process:
        try:
            assert process.stdout.read(1) == b"."
            pids = process_memory.descendants(process.pid)
            assert pids[0] == process.pid and len(pids) == 2
            assert 40 * MIB < process_memory.held(pids) <= process_memory.upper_bound(pids) < 120 * MIB
        finally:
            process.stdin.close()
    wait_until(lambda: process_memory.descendants(process.pid) == [process.pid], 5)
    assert process_memory.held([process.pid]) == process_memory.upper_bound([process.pid]) == 0


def test_what_processes_share_counts_once():
    code = f"""if 1:
        import os, sys
        held = bytearray(os.urandom({MIB})) * 64
        for _ in range(2):
            if os.fork() == 0:
                sys.stdin.read()
                os._exit(0)
        sys.stdout.write(".")
        sys.stdout.flush()
        sys.stdin.read()
        for _ in range(2):
            os.wait()
    """
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as process:
        try:
            assert process.stdout.read(1) == b"."
            pids = process_memory.descendants(process.pid)
            assert len(pids) == 3
            assert process_memory.upper_bound(pids) > 3 * 64 * MIB
            assert 64 * MIB < process_memory.held(pids) < 2 * 64 * MIB
        finally:
            process.stdin.close()


def test_mapped_files_are_not_held(tmp_path):
    (tmp_path / "file").write_bytes(bytes(64 * MIB))
    before = process_memory.held([os.getpid()])
    with open(tmp_path / "file", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[::4096]) == 0
        assert process_memory.held([os.getpid()]) < before + 16 * MIB


def test_a_kernel_without_the_sum_of_pages_gives_the_bound(tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "7/status").write_text(
        "VmRSS:\t 90 kB\nRssAnon:\t      50 kB\nRssFile:\t 30 kB\nRssShmem:\t  10 kB\n"
    )
    assert process_memory.held([7], str(tmp_path)) == 60 * 1024
    (tmp_path / "7/smaps_rollup").write_text(
        "Pss:  70 kB\nPss_Anon:   30 kB\nPss_File: 35 kB\nPss_Shmem:   5 kB\n"
    )
    assert process_memory.held([7], str(tmp_path)) == 35 * 1024
