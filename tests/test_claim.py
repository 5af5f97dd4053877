"""One program at a time tidies a store, and one that slept cannot publish what it has written."""

import json
import os
import threading

import pytest

from cw import StoreError, processes
from cw.store import claim
from cw.store.claim import Claim


@pytest.fixture
def path(tmp_path):
    return str(tmp_path)


def holder(path, process, host=None):
    """Let another program have the right."""
    with open(os.path.join(path, claim.NAME), "w") as file:
        json.dump({"id": "other", "host": host or os.uname().nodename, "process": process}, file)


def taken(path):
    found = Claim(path)
    found.take()
    return found


def test_the_second_is_told_where_the_first_one_works(path, monkeypatch):
    monkeypatch.setattr(claim, "BEAT_SECONDS", 0.0)
    first, is_over = taken(path), threading.Event()

    def live():
        while not is_over.wait(0.02):
            first.beat()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(StoreError, match=rf"by another program \(.*, process {os.getpid()}\): wait"):
            Claim(path).take()
    finally:
        is_over.set()
        thread.join()
    first.release()
    taken(path).release()
    assert not os.listdir(path)


def test_the_right_of_a_process_that_has_ended_is_taken_at_once(path):
    process = processes.identity(os.getpid())
    holder(path, process + "0")  # the same number, another process
    open(os.path.join(path, "tidying-other.tmp"), "w").close()
    taken(path).release()
    assert not os.listdir(path)


@pytest.mark.parametrize("text", [None, "", "{"])
def test_the_right_of_one_that_is_silent_is_taken_in_the_end(path, monkeypatch, text):
    monkeypatch.setattr(claim, "DEAD_SECONDS", 0.2)
    holder(path, "1 1", "another-machine")
    if text is not None:  # killed while it wrote
        with open(os.path.join(path, claim.NAME), "w") as file:
            file.write(text)
    taken(path).release()
    assert not os.listdir(path)


@pytest.mark.parametrize("is_before", [True, False])
def test_one_that_slept_cannot_publish_what_it_wrote(path, monkeypatch, is_before):
    monkeypatch.setattr(claim, "DEAD_SECONDS", 0.0)
    first = taken(path)
    if is_before:
        os.close(first.open_file())
    second = taken(path)
    with pytest.raises(StoreError, match="another program has begun to tidy it"):
        if is_before:
            first.publish("it")
        else:
            first.open_file()
    first.release()
    os.close(second.open_file())
    second.publish("mine")
    second.release()
    assert os.listdir(path) == ["mine"]


def test_what_others_have_left_is_removed_and_nothing_else(path):
    for name in "tidying-1.tmp", "tidying-2.old", "x.seg":
        open(os.path.join(path, name), "w").close()
    taken(path).release()
    assert os.listdir(path) == ["x.seg"]
