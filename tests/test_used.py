"""Use of a cluster, added up from the logs of its workers."""

import pytest

from cw.slot_seconds import Used, as_line
from cw.slurm.used import Total, in_words, of_logs

START = "2026-11-29 04:55:31 a worker in Slurm job 3, step 0, node n3; slots: 2\n"


def test_the_workers_of_all_pieces_are_added_up(tmp_path):
    (tmp_path / "workers-1-n1.log").write_text(f"{START}x cw.worker INFO: {as_line(Used(10.0, 40.0, 5.0))}\n")
    # This one was requeued: one worker after the other.
    line = f"{START}x cw.worker INFO: {as_line(Used(1.0, 2.0, 0.5))}\n"
    (tmp_path / "workers-2-n2.log").write_text(line + "a job's own line\n" + line)
    (tmp_path / "workers-3-n3.log").write_text(START)  # was killed
    (tmp_path / "workers-3.log").write_text("of a batch script\n")
    assert of_logs(str(tmp_path)) == Total(Used(12.0, 44.0, 6.0), 3, 4)


def test_without_workers_nothing_is_told(tmp_path):
    assert in_words(of_logs(str(tmp_path))) == ""
    (tmp_path / "workers-3-n3.log").write_text(START)
    assert in_words(of_logs(str(tmp_path))) == ""


@pytest.mark.parametrize(
    ("total", "words"),
    [
        (Total(Used(394, 633, 180), 8, 8),
         "used 394 of 633 slot-seconds (62 %); pieces of 1 and --idle 60 would have saved up to 180"),
        (Total(Used(600, 633, 0), 8, 8), "used 600 of 633 slot-seconds (95 %)"),
        (Total(Used(1, 4, 0), 7, 8), "used 1 of 4 slot-seconds (25 %) in 7 of 8 workers"),
    ],
)  # fmt: skip
def test_the_use_in_words(total, words):
    assert in_words(total) == words
