"""Messages about what jobs print. Part of `cw.net.messages`.

runner: pipes, and Printed ---> worker ---> Output, Kept ---> master ---> JobOutput, JobKept ---> client
                                worker <--- OutputShare <---- master

All of them go in the data lane: what a job printed comes before its result.
"""

from cw.named_tuple import NamedTuple
from cw.net.schema import Leg, Payloads, U8s, U32s, U64s, batch, record

# Where a job wrote: the `streams` of Output and JobOutput.
STDOUT = 1
STDERR = 2
RECORDS = 3  # one line for each record of logging or warnings, which only runner and client can read

SIZE_A_SECOND, LINES_A_SECOND = 1_000_000, 1000
"""Most bytes and lines of live output a second for each client, from all its workers together. Larger: one that prints
much slows down others. Smaller: more is left out."""


@batch(74, Leg.WORKER_MASTER)
class Output(NamedTuple):
    """Parts of what jobs print, live: whole lines, unless a line takes its time or the job ends within it."""

    dispatches: U64s
    streams: U8s  # STDOUT, STDERR or RECORDS
    lines: U32s  # lines of this job and stream that were left out just before this part
    sizes: U64s  # their bytes
    payloads: Payloads


@batch(74, Leg.MASTER_CLIENT)
class JobOutput(NamedTuple):
    """Parts of what jobs print, to their client. They come from the host of the last OutputHost."""

    numbers: U64s  # within the session
    streams: U8s  # STDOUT, STDERR or RECORDS
    lines: U32s  # lines of this job and stream that were left out just before this part
    sizes: U64s  # their bytes
    payloads: Payloads


@record(112, Leg.MASTER_CLIENT, is_ordered=True)
class OutputHost(NamedTuple):
    """The JobOutput after this comes from this host."""

    host: str


@batch(75, Leg.WORKER_MASTER)
class Kept(NamedTuple):
    """What jobs have printed, as far as it is kept. It comes just before the result: of jobs with output="keep", and of
    those that have failed."""

    dispatches: U64s
    sizes: U32s  # bytes of stdout, with which the payload begins; the rest is stderr
    cut: U8s  # 1 if something is missing
    payloads: Payloads


@batch(75, Leg.MASTER_CLIENT)
class JobKept(NamedTuple):
    """What jobs have printed, to their client, as in Kept."""

    numbers: U64s  # within the session
    sizes: U32s  # bytes of stdout, with which the payload begins; the rest is stderr
    cut: U8s  # 1 if something is missing
    payloads: Payloads


@record(113, Leg.MASTER_WORKER)
class OutputShare(NamedTuple):
    """The share of a session's live output that this worker may send."""

    session: int
    size: int  # bytes a second
    lines: int  # lines a second


@record(114, Leg.RUNNER_WORKER, is_ordered=True)
class Printed(NamedTuple):
    """The job whose result follows has printed: an end mark stands in these of the runner's pipes for output."""

    streams: int  # the sum of 1 for stdout, 2 for stderr, 4 for records
