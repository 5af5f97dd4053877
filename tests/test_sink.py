"""What a session receives of its jobs' output."""

import pytest

from cw.client.session.job import ClientJob, NamedTag
from cw.client.session.jobs import Jobs
from cw.net import messages as m
from cw.output.sink import Kept, Sink


class Printer:
    """Notes what it would print."""

    def __init__(self):
        self.pieces, self.settled = [], 0

    def put(self, piece):
        self.pieces.append(tuple(piece))

    def settle(self):
        self.settled += 1


@pytest.fixture
def printer():
    return Printer()


@pytest.fixture
def sink(printer):
    jobs = Jobs()
    for tag in None, NamedTag("mine", None):
        jobs.add(7, 0, b"", tag)
    return Sink(printer, jobs, {7: "simulate"}, lambda number: f"cell {number}")


def test_whole_lines_are_printed_with_their_label_and_cell(sink, printer):
    assert not sink.is_used
    sink.on_output(1, m.STDOUT, b"a\nb", "node7.x.org")
    sink.on_output(2, m.STDERR, b"error\n", "node8")
    sink.on_output(1, m.STDOUT, b"c\n", "node7.x.org")
    assert sink.is_used and printer.pieces == [
        (1, b"a\n", "[simulate #1 node7] ", "cell 1", None),
        (2, b"error\n", "[simulate #mine node8] ", "cell 2", None),
        (1, b"bc\n", "[simulate #1 node7] ", "cell 1", None),
    ]


def test_at_its_end_a_job_has_printed_all(sink, printer):
    sink.on_output(1, m.STDOUT, b"no end", "node7")
    sink.on_ended([2])
    assert printer.pieces == [] and printer.settled == 1
    sink.on_ended([1, 2])
    assert [piece[1] for piece in printer.pieces] == [b"no end"] and printer.settled == 2


def test_an_attempt_that_is_lost_leaves_no_line_for_the_next(sink, printer):
    sink.on_output(1, m.STDOUT, b"hal", "node7")
    sink.on_kept(1, b"hal", b"", False)
    sink.on_output(1, m.STDOUT, b"half\n", "node8")
    assert [piece[1] for piece in printer.pieces] == [b"hal", b"half\n"]


def test_what_is_left_out_is_a_note(sink, printer):
    sink.on_left_out(1, m.STDOUT, 12_000, 34_000)
    (note,) = printer.pieces
    assert note[1] == b"" and note[4] == (12_000, 34_000)


def test_output_of_cancelled_jobs_is_dropped_but_not_a_note_that_comes_after_the_job(sink, printer):
    sink.on_output(3, m.STDOUT, b"a\n", "node7")
    assert printer.pieces == []
    sink.on_left_out(3, m.STDOUT, 1, 1)
    assert [piece[2] for piece in printer.pieces] == ["[#3] "]


def test_what_is_kept_is_taken_once(sink):
    assert not sink.has_kept and sink.take_kept(1) is None
    sink.on_kept(1, b"out", b"\xff", True)
    assert sink.has_kept and sink.take_kept(1).texts() == ("out", "\ufffd")
    assert not sink.has_kept and sink.take_kept(1) is None


def test_at_the_end_of_the_session_nothing_is_held_back(sink, printer):
    sink.on_output(1, m.STDOUT, b"no end", "node7")
    sink.on_kept(2, b"", b"", False)
    sink.end()
    assert [piece[1] for piece in printer.pieces] == [b"no end"] and not sink.has_kept


def test_jobs_with_keep_and_those_that_fail_are_given_their_output():
    from cw.client.session.delivery import Delivery
    from cw.requirements import JobOptions

    class Tag:
        def note_output(self, *texts):
            self.texts = texts

    delivery = Delivery(Jobs(), None, None, None)
    plain, keeps = (
        ClientJob(1, 7, 0, b"", Tag(), None, JobOptions(output=mode)) for mode in ("print", "keep")
    )
    assert delivery.note_output(plain, None, Kept(b"of a lost attempt", b"")) is None
    assert delivery.note_output(keeps, None, None) == Kept(b"", b"") and keeps.tag.texts == ("", "")
    error = ValueError()
    assert delivery.note_output(plain, error, Kept(b"out", b"")) == Kept(b"out", b"")
    assert plain.tag.texts == ("out", "") and "out" in str(error.__cause__)
