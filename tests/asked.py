"""Objects that hold options of jobs, for tests of what acts on them."""

from cw.net import messages as m
from cw.net.objects import Object
from cw.requirements import JobOptions


def asked(number=9, **options):
    """The object that a job with these options names; None if there are none."""
    return Object(number, JobOptions(**options).to_wire(), m.OPTIONS) if options else None
