"""The sentences about waits: reasons in, lines out."""

import ast
import re
from pathlib import Path
from random import Random

import pytest

import cw
from cw.waits.sentences import MASTER, MINUTE, MOST, SECONDS, SUBMIT, Line, Lines, Reason, in_words

WAITS = ["reporter", "batch_queue", "sentences"]
NO_WORKER = Reason("no-worker", "no worker is connected")
BUSY = Reason("busy", "others hold all slots")
FULL = Reason(SUBMIT, "3 jobs are outstanding")


def texts(lines, now):
    return [line.text for line in lines.due(now)]


def test_a_wait_is_said_once_and_taken_back_with_its_duration():
    lines = Lines()
    assert texts(lines, 0.0) == []
    lines.note(MASTER, NO_WORKER, 3.0)
    assert lines.due(3.0) == [Line("client.waits", "the jobs wait: no worker is connected", True)]
    lines.note(MASTER, NO_WORKER, 60.0)
    assert texts(lines, 60.0) == []
    lines.note(MASTER, None, 80.0)
    assert lines.due(80.0) == [Line("client.wait_over", "the jobs wait no longer, after 80 s", True)]
    assert texts(lines, 81.0) == []


def test_a_client_that_is_slow_does_not_know_how_long_it_was():
    lines = Lines()
    lines.note(MASTER, Reason("client-slow", "the program does not take its results"), 10.0)
    assert len(lines.due(10.0)) == 1
    lines.note(MASTER, None, 10.1)
    assert texts(lines, 10.1) == ["the jobs wait no longer"]


def test_another_reason_is_said_and_other_numbers_in_the_text_are_not():
    lines = Lines()
    lines.note(MASTER, Reason("no-worker", "starts in 9 min", "Priority"), 0.0)
    assert len(lines.due(0.0)) == 1
    lines.note(MASTER, Reason("no-worker", "starts in 8 min", "Priority"), 60.0)
    assert lines.due(60.0) == []
    lines.note(MASTER, Reason("no-worker", "starts in 7 min", "Resources"), 120.0)
    assert texts(lines, 120.0) == ["the jobs wait: starts in 7 min"]
    lines.note(MASTER, BUSY, 130.0)
    assert texts(lines, 130.0) == ["the jobs wait: others hold all slots"]
    lines.note(MASTER, None, 177.0)
    assert texts(lines, 177.0) == ["the jobs wait no longer, after 3 min"]


def test_what_passes_by_itself_is_loud_only_the_first_time():
    lines = Lines()
    loud = []
    for reason in (BUSY, FULL, NO_WORKER) * 2:
        what = SUBMIT if reason is FULL else MASTER
        for noted in (reason, None):
            now = 100.0 * len(loud)
            lines.note(what, noted, now)
            loud += [line.is_loud for line in lines.due(now)]
    assert loud == [True] * 6 + [False] * 4 + [True] * 2


def test_submit_waits_without_a_line_while_jobs_wait_or_the_master_is_lost():
    lines = Lines()
    lines.note(MASTER, NO_WORKER, 0.0)
    lines.note(SUBMIT, FULL, 0.0)
    assert texts(lines, 0.0) == ["the jobs wait: no worker is connected"]
    lines.on_lost()
    assert texts(lines, 1.0) == []  # nothing is taken back: it is not known
    lines.on_joined()
    assert texts(lines, 2.0) == ["submit() waits: 3 jobs are outstanding"]
    lines.note(SUBMIT, None, 10.0)
    assert texts(lines, 10.0) == ["submit() goes on, after 13 s"]


def test_there_are_a_few_lines_a_minute_and_the_last_state_is_said_later():
    lines = Lines()
    said = []
    for second in range(60):
        lines.note(MASTER, None if second % 2 else NO_WORKER, float(second))
        said += lines.due(float(second))
    assert len(said) == MOST and not lines.is_late
    lines.note(MASTER, BUSY, 59.5)
    assert lines.is_late and texts(lines, 59.9) == []
    assert texts(lines, MINUTE) == ["the jobs wait: others hold all slots"]
    assert not lines.is_late


@pytest.mark.parametrize("seed", range(20))
def test_at_random_times_all_is_said_that_lasts_and_each_line_is_news(seed):
    random = Random(seed)
    lines, now, state, said = Lines(), 0.0, {MASTER: None, SUBMIT: None}, []
    for _ in range(300):
        now += random.choice([0.1, 1.0, 5.0, 70.0])
        what = random.choice([MASTER, SUBMIT])
        state[what] = random.choice([None, FULL] if what is SUBMIT else [None, NO_WORKER, BUSY])
        lines.note(what, state[what], now)
        news = lines.due(now)
        said += [(now, line.text) for line in news]
        assert all(sum(now - at < MINUTE for at, _ in said) <= MOST for at, _ in said[-1:])
        if not lines.is_late and state[MASTER] is not None:
            about_jobs = [text for _, text in said if "jobs wait" in text]
            assert about_jobs[-1] == f"the jobs wait: {state[MASTER].text}"
    for kind in ("the jobs wait", "submit()"):
        texts_ = [text.partition(", after")[0] for _, text in said if text.startswith(kind)]
        assert all(one != other for one, other in zip(texts_, texts_[1:], strict=False))


def test_durations_are_in_a_readers_units():
    words = [in_words(seconds) for seconds in (SECONDS, 89.6, 90, 3600, 7500, 86400)]
    assert words == ["3 s", "90 s", "2 min", "60 min", "2 h 5 min", "24 h 0 min"]


def test_the_page_has_the_programs_own_sentences():
    """Each part between numbers, names and punctuation of a sentence that the page quotes is in the code."""
    root = Path(cw.__file__).parent
    modules = [
        "master/policy/why",
        "client/session/session",
        "client/session/patience",
        "slurm/squeue",
        "slurm/reasons",
        "needs_text",
        "advice",
        "master/policy/shape_waits",
        "master/policy/to_come",
        *(f"waits/{n}" for n in WAITS),
    ]
    constants = [
        node.value
        for module in modules
        for node in ast.walk(ast.parse((root / f"{module}.py").read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    section = (root.parent / "docs/errors.md").read_text().partition("## Why jobs wait")[2]
    quoted = re.findall(r'"([^"]+)"', section.replace("\n", " "))
    assert len(quoted) > 15
    for sentence in quoted:
        for part in re.split(r"[^a-z_' ]+|\b[a-zA-Z]*[0-9A-Z]\S*", sentence):
            words = part.split()
            halves = [(" ".join(words[:n]), " ".join(words[n:])) for n in range(1, len(words))]
            assert not halves or any(all(any(h in t for t in constants) for h in two) for two in halves), part
