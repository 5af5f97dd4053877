"""What jobs need, and what workers have of it, in words."""

import pytest

from cw.needs import ONE_CPU, UNITS_PER_GPU, Needs
from cw.needs_text import has_of, in_short, in_words
from cw.requirements import WorkerCapacity

ALL = Needs(4, 2 * UNITS_PER_GPU, 40 * 10**9, (("licence", 1), ("port", 3)), ("avx512", "big"))


@pytest.mark.parametrize(
    ("needs", "text"),
    [
        (ONE_CPU, "1 CPU"),
        (Needs(8), "8 CPUs"),
        (Needs(nodes=2), "2 nodes"),
        (Needs(8, nodes=2), "2 nodes and 8 CPUs"),
        (Needs(gpus=UNITS_PER_GPU), "1 GPU"),
        (Needs(gpus=UNITS_PER_GPU // 2), "0.5 GPU"),
        (Needs(2, memory=1_500_000_000), "2 CPUs and 1.5GB of memory"),
        (Needs(tags=("avx512",)), "tag avx512"),
        (ALL, "4 CPUs, 2 GPUs, 40GB of memory, 1 of licence, 3 of port and tag avx512, tag big"),
    ],
)
def test_what_a_job_needs(needs, text):
    assert in_words([needs]) == text


def test_alternatives_are_separated_by_or():
    choices = Needs(gpus=UNITS_PER_GPU), Needs(16, memory=10**9)
    assert in_words(choices) == "1 GPU or 16 CPUs and 1GB of memory"
    assert in_short(choices) == "1 GPU or 16 CPUs, 1GB of memory"


def test_what_a_worker_has_of_what_it_lacks():
    small = WorkerCapacity(2, memory="8GB", resources={"licence": 1, "port": 1}, tags="big")
    assert small.lacks(ALL) == ("cpus", "gpus", "memory", "resources", "tags")
    text = "2 CPUs, no GPU, 8GB of memory, 1 of port and no tag avx512"
    assert has_of(small, ALL, small.lacks(ALL)) == text
    assert has_of(small, Needs(resources=(("seat", 1),)), ["resources"]) == "no seat"
