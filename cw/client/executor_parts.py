"""What a ClusterExecutor consists of: the session, its futures, and what it hands over or reports when it ends."""

from __future__ import annotations

import functools
import os
import weakref
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any

from cw import own_cluster
from cw.client.futures.future import Future
from cw.client.futures.future_submitter import FutureSubmitter
from cw.client.maps import batches
from cw.client.options import ClientSettings, closed_on_error
from cw.client.session import ending
from cw.client.session.outcome import Abandoned
from cw.client.session.session import Session
from cw.client.slot_count import SlotCount
from cw.client.store_client import StoreClient
from cw.client.with_options import Options
from cw.events import EventLogger
from cw.named_tuple import NamedTuple
from cw.requirements import NO_OPTIONS, to_options

if TYPE_CHECKING:
    from cw.client.run_report import RunReport
    from cw.runs.detaching import Detachment

logger = EventLogger("cw.client")


class Parts(NamedTuple):
    """The parts of one executor."""

    session: Session
    futures: FutureSubmitter
    defaults: Options
    """For calls without options of their own."""
    slot_count: SlotCount
    detachment: Detachment | None


def make(
    settings: ClientSettings,
    store: str | os.PathLike[str] | None,
    durability: str,
    retry_errors: bool,
    output: str | None,
    report: str | os.PathLike[str] | None,
    detach: bool | str,
) -> Parts:
    """Make them, and connect. The parameters and errors are those of ClusterExecutor."""
    run_report = None if report is None else _run_report(report)
    open_store = _opener_of_stores(durability, retry_errors, settings.seed)
    store_client = None if store is None else open_store(store)
    with closed_on_error(store_client):
        defaults = to_options({"output": output})
        session = Session(settings, _deliver, _notify_started, store_client)
        _report_to(session, run_report)
        session.start()
        place = store, settings.host, settings.port, durability
        detachment = _detachment(session, detach and (detach, *place))
    slot_count = SlotCount(lambda: session.exchange.link.where, own_cluster.slots_for(session))
    futures = FutureSubmitter(session, store_client, open_store, defaults, detachment)
    # A forgotten shutdown() leaves no thread and no runners behind; the futures are still settled.
    weakref.finalize(futures, session.close, is_waiting=True).atexit = False
    return Parts(session, futures, Options(futures, NO_OPTIONS), slot_count, detachment)


def _opener_of_stores(
    durability: str, retry_errors: bool, seed: int | None
) -> functools.partial[StoreClient]:
    return functools.partial(StoreClient, durability=durability, retry_errors=retry_errors, seed=seed)


def _detachment(session: Session, settings: Any) -> Detachment | None:
    """Make what hands over a session's calls, if it detaches. If that fails, the session ends. `settings`: False, or
    detach, store, host, port and durability."""
    if settings is False:
        return None
    from cw.client.session.handover import Handover
    from cw.runs import detaching

    detach, store, host, port, durability = settings
    where = session.exchange.link.where
    try:
        place = detaching.Place(
            os.fspath(store), "" if host is None and port is None else where, where, durability
        )
        made = detaching.Detachment(
            session, Handover(session), detach, place, lambda: ending.unregister_leaver(session)
        )
    except BaseException:
        session.leave_now()
        raise
    ending.register_leaver(session, made)
    return made


def _run_report(path: str | os.PathLike[str]) -> RunReport:
    from cw.client import run_report  # rarely needed

    return run_report.RunReport(path)


def _report_to(session: Session, run_report: RunReport | None) -> None:
    """Let the report take note of all jobs, if one is asked for."""
    if run_report is not None:
        session.delivery.report_to(run_report, session.calls.objects.names)


def _deliver(number: int, tag: Any, error: BaseException | None, value: Any) -> None:
    if type(tag) is batches.ChunkTag:
        tag.deliver(number, error, value, _settle)
    else:
        _settle(number, tag, error, value)


def _settle(number: int, future: Future[Any], error: BaseException | None, value: Any) -> None:
    try:
        if error is None:
            future.set_result(value)
        elif not isinstance(error, Abandoned) or not future.cancel():
            future.set_exception(error)
    except InvalidStateError:
        pass  # cancelled at this very moment
    except BaseException:  # Future itself logs a callback's Exception; nothing may end the session's thread
        logger.error("client.done_callback_failed", "a callback of a future failed", exc_info=True)


def _notify_started(number: int, future: Future[Any]) -> None:
    future.note_running()
