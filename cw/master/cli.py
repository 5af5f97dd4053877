"""`python -m cw.master`: the command line, the listening sockets, the address file.

options ---> _options() ---> main() ---> Acceptor (admits peers) ---> Master ---> Loop.run()
"""

from __future__ import annotations

import argparse
import errno
import os
import socket

from cw import advice, credential, program
from cw.master.master import Master
from cw.master.peer import logger
from cw.master.settings import Settings
from cw.net import address
from cw.net.acceptor import Acceptor
from cw.net.loop import Loop
from cw.net.sockets import listen_locally


def main() -> int:
    """Run the program. Returns its exit status."""
    options = _options()
    program.set_up_logging(options.verbose)
    mine = credential.load_or_make()
    program.allow_many_descriptors()
    program.collect_rarely()
    loop = Loop()
    master = Master(loop, options.no_address_file, Settings(options.silence, options.client_grace))
    acceptor = Acceptor(loop, mine, master.on_admitted)
    if options.listen_fd is not None:
        listener = _inherited(options.listen_fd)
    else:
        acceptor.prepare()  # reports a bad credential at once
        listener = _listen(options.host or "", options.port)
    local: socket.socket | None
    if options.local_fd is not None:
        local = _inherited(options.local_fd)
    else:
        local = listen_locally(listener.getsockname()[1], mine.fingerprint)
    host, port = listener.getsockname()[:2]
    start_id = None if options.no_address_file else _write_address(host, port)
    acceptor.listen(listener)
    if local is not None:
        acceptor.listen(local)
    program.end_with(loop, options.lifeline_fd, master.leave)
    logger.info("master.credential", "the master admits only holders of the credential %s", mine.path)
    _log_address(host, port)
    if options.ready_fd is not None:
        program.report_ready(options.ready_fd)
    try:
        loop.run()
    finally:
        acceptor.close()
        if start_id is not None:
            address.remove_address(start_id)
    return 0


def _options() -> argparse.Namespace:
    parser = program.argument_parser(
        "cw.master", "Routes jobs from client programs to workers, and their results back."
    )
    parser.add_argument(
        "--host", metavar="ADDR", help="address to listen on (default: all addresses of this machine)"
    )
    parser.add_argument(
        "--port",
        type=program.converted_by(_parse_port),
        help="port to listen on (default: 5494; 0: a free one)",
    )
    parser.add_argument("--no-address-file", action="store_true", help="do not write the address to ~/.cw")
    defaults = Settings()
    parser.add_argument("--silence", metavar="SECONDS", type=program.converted_by(program.parse_positive_seconds),
                        default=defaults.silence,
                        help="treat a worker as lost if it sends nothing for this long "
                        "(default: %(default)g)")  # fmt: skip
    parser.add_argument("--client-grace", metavar="SECONDS", type=program.converted_by(program.parse_seconds),
                        default=defaults.client_grace, help="let the running jobs of a lost client go on for this "
                        "long, in case it comes back (default: %(default)g)")  # fmt: skip
    program.add_launcher_options(parser, "--lifeline-fd", "--ready-fd", "--listen-fd", "--local-fd")
    return parser.parse_args()


def _listen(host: str, port: int | None) -> socket.socket:
    """Open a listening socket; host '' means all interfaces. If the default port is taken, the system picks one."""
    is_on_all = host in ("", "::") and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_on_all or ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host or None, 0, family)  # (create_server would turn this error into another)
    except socket.gaierror:
        raise program.UserError(
            f"the address {host!r} is unknown: give one of this machine's with --host"
        ) from None
    wanted = [address.PORT, 0] if port is None else [port]
    for number in wanted:
        try:
            return socket.create_server((host, number), family=family, backlog=1024, dualstack_ipv6=is_on_all)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                if port is None and number:
                    logger.warning(
                        "master.port_taken",
                        "port %d is taken, perhaps by another master: a free one is used",
                        number,
                    )
                    continue
                raise program.UserError(
                    f"port {number}{f' on {host}' * bool(host)} is taken: give another with --port, or 0 for a free one"
                ) from None
            reason = (
                "this machine has no such address" if error.errno == errno.EADDRNOTAVAIL else error.strerror
            )
            raise program.UserError(f"cannot listen on {address.join(host, number)}: {reason}") from None
    raise AssertionError("port 0 is never taken")


def _inherited(fd: int) -> socket.socket:
    """The socket of a descriptor that the launcher has opened."""
    found = socket.socket(fileno=fd)
    found.set_inheritable(False)
    return found


def _log_address(host: str, port: int) -> None:
    is_on_all = host in ("::", "0.0.0.0")
    name = address.join(os.uname().nodename if is_on_all else host, port)
    logger.info(
        "master.listening",
        "the master listens on %s; workers: %s",
        f"all addresses of this machine, port {port}" if is_on_all else name,
        advice.elsewhere("worker", name),
    )


def _write_address(host: str, port: int) -> str | None:
    """Write the address file, and return the start id in it. None: it cannot be written (disk full, for example), and
    the master serves those that know its host."""
    try:
        return address.write_address(host, port)
    except OSError as error:
        logger.warning("master.address_file_failed",
                       "the address file %s cannot be written (%s): name this master's host to workers and clients",
                       address.address_file(), error.strerror)  # fmt: skip
        return None


def _parse_port(text: str) -> int:
    return 0 if text == "0" else address.check_port(text)
