"""The end of `async with cw.ClusterExecutor()`: outstanding jobs are waited for in a thread, not in the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cw.client.session.session import Session


async def leave_over(hand_over: Callable[[], None]) -> None:
    """Return when the session's calls are handed over, or have ended, without blocking the event loop."""
    await asyncio.shield(asyncio.to_thread(hand_over))


async def leave(session: Session, shutdown: Callable[[], None], kind: type[BaseException] | None) -> None:
    """Return when all jobs have ended. They are cancelled if the task is, before or during the wait; `kind`: the
    exception that ended the block."""
    is_interrupted = kind is not None and issubclass(kind, (asyncio.CancelledError, KeyboardInterrupt))
    if is_interrupted:
        session.close(is_waiting=False)
    try:
        await asyncio.to_thread(shutdown)
    except asyncio.CancelledError:
        session.close(is_waiting=False)
        raise
