"""The command line of `python -m cw.worker`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from cw import program
from cw.cpus import usable_cpus
from cw.net import address
from cw.net.loop import Loop
from cw.worker import offer
from cw.worker.leaving import Leaving
from cw.worker.worker import Settings, Worker


def main(prepare: Callable[[Loop, Worker], None] = lambda loop, worker: None) -> int:
    """Run the worker program. Returns its exit status. `prepare(loop, worker)` is called before it joins its master."""
    options = _parse()
    program.set_up_logging(options.verbose)
    if options.host and options.slurm:
        raise program.UsageError(
            f"HOST is {options.host!r}, and --slurm looks for the host: give one of them"
        )
    address.find_master(options.host, options.port)  # a user's mistake ends the program here
    if options.host:
        address.bind_jobs(options.host, options.port)
    settings = _settings(options)
    offered = offer.make_offer(options, os.environ)
    descriptors = program.allow_many_descriptors()  # each runner takes a few
    program.collect_rarely()
    loop = Loop()

    def find() -> list[address.Candidate]:
        if (options.notice is None and not options.slurm) or os.environ.get("CW_MASTER"):
            return address.find_master(options.host, options.port)
        # In Slurm: look only for this cluster's own master, as another one may run on this machine.
        return address.find_cluster(address.cluster_name())

    # Signals come first: a signal during the start of the forkserver must end both processes.
    _handle_signals(loop, lambda: worker.leaving, options.notice)
    worker = Worker(loop, offered, find, settings, descriptors)
    program.watch_lifeline(loop, options.lifeline_fd, worker.leaving.on_launcher_gone)
    if options.ready_fd is not None:
        worker.on_joined = program.ready_reporter(options.ready_fd)
    prepare(loop, worker)
    worker.connect()
    try:
        loop.run()
    finally:
        worker.close()
    if worker.failure:
        raise program.UserError(worker.failure)
    return options.idle_status or 0 if worker.leaving.was_idle else 0


def _handle_signals(loop: Loop, leaving: Callable[[], Leaving], notice: int | None) -> None:
    """Let signals end the worker. `notice`: the signal that announces an end, if there is one."""
    loop.on_signal(signal.SIGINT, lambda: leaving().on_sigint())
    loop.on_signal(signal.SIGTERM, lambda: leaving().on_sigterm())
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is with nohup
        loop.on_signal(signal.SIGHUP, lambda: leaving().on_sighup())
    if notice is not None:
        loop.on_signal(notice, lambda: leaving().on_notice())


def _settings(options: Any) -> Settings:
    return Settings(
        options.silence,
        options.reconnect_timeout,
        options.grace,
        options.lifetime,
        options.until,
        options.max_jobs,
        options.enforce_memory,
        options.idle,
        options.without_master,
        share_gpus=options.share_gpus,
        pin=options.pin,
    )


def _parse() -> Any:
    parser = program.argument_parser(
        "cw.worker",
        "Runs jobs that clients submit to a master. Waits for the master if it does not run yet.",
        epilog="Without HOST, the worker uses CW_MASTER, otherwise the address file of the running master in ~/.cw, "
        "otherwise this machine.",
    )
    parser.add_argument("host", nargs="?", metavar="HOST[:PORT]", help="host of the master")
    parser.add_argument(
        "--port", type=program.converted_by(address.check_port), help="port of the master (default: 5494)"
    )
    parser.add_argument("--slurm", action="store_true", help="look only for the master of your cluster in Slurm, and "
                        "never for one on this machine")  # fmt: skip
    parser.add_argument("-n", dest="slots", metavar="SLOTS", type=program.converted_by(_parse_slots), default=1,
                        help="number of jobs to run at a time; 'auto': one for each usable CPU "
                        "(default: 1)")  # fmt: skip
    offer.add_options(parser)
    _add_limits(parser)
    program.add_launcher_options(parser, "--lifeline-fd", "--ready-fd", "--notice", "--idle-status")
    return parser.parse_args()


def _parse_slots(text: str) -> int:
    if text == "auto":
        return usable_cpus()
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 65535):
        raise ValueError(f"{text!r} is no number of slots: give 1 or more, or 'auto' for the usable CPUs")
    return int(text)


def _parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(f"{text!r} is no number of jobs: give 1 or more")
    return int(text)


def _parse_time(text: str) -> float:
    if not (text.isascii() and text.isdigit() and time.time() - 1e6 < int(text) < 1e10):
        raise ValueError(f"{text!r} is no time: give seconds since 1970 (date +%s -d 18:00)")
    return float(text)


def _add_limits(parser: Any) -> None:
    """Add the options of `Settings`."""
    defaults = Settings()
    seconds = program.converted_by(program.parse_seconds)
    positive = program.converted_by(program.parse_positive_seconds)
    group = parser.add_argument_group("limits")
    group.add_argument("--grace", metavar="SECONDS", type=seconds, default=defaults.grace,
                       help="after Ctrl-C or SIGTERM, let running jobs go on for this long, then stop them within 3 s; "
                       "all other jobs go to other workers at once (default: %(default)g). A second Ctrl-C ends the "
                       "worker at once")  # fmt: skip
    group.add_argument("--lifetime", metavar="SECONDS", type=positive, default=defaults.lifetime,
                       help="end after this long, as after SIGTERM (default: never)")  # fmt: skip
    group.add_argument("--idle", metavar="SECONDS", type=seconds, default=defaults.idle,
                       help="end after this long with nothing to do; 0: never (default)")  # fmt: skip
    group.add_argument("--until", metavar="TIME", type=program.converted_by(_parse_time), default=defaults.until,
                       help="time at which the machine is taken away, in seconds since 1970: the worker takes no more "
                       "jobs from 75 seconds before it on, and stops jobs 15 seconds before it (default: "
                       "never)")  # fmt: skip
    group.add_argument("--max-jobs", metavar="N", type=program.converted_by(_parse_count), default=defaults.max_jobs,
                       help="replace each runner process by a new one after N jobs (default: never)")  # fmt: skip
    group.add_argument("--enforce-memory", action="store_true",
                       help="stop a job that uses more memory than its options name; it fails with "
                       "cw.MemoryExceeded")  # fmt: skip
    group.add_argument("--silence", metavar="SECONDS", type=positive, default=defaults.silence,
                       help="treat the master as lost if it sends nothing for this long "
                       "(default: %(default)g)")  # fmt: skip
    group.add_argument("--reconnect-timeout", metavar="SECONDS", type=seconds, default=defaults.reconnect_timeout,
                       help="look for a lost master for this long before giving up its jobs; the worker itself goes "
                       "on waiting (default: %(default)g)")  # fmt: skip
    group.add_argument("--without-master", metavar="SECONDS", type=positive, default=defaults.without_master,
                       help="end after this long without a master (default: never)")  # fmt: skip
