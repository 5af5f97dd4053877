"""The settings of a client and of a map, checked. (The options of jobs: `cw.requirements`.)"""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

from cw import own_cluster
from cw.named_tuple import NamedTuple
from cw.requirements import MOST_SECONDS, to_seconds

if TYPE_CHECKING:
    from cw.mp import LocalCluster


class ClientSettings(NamedTuple):
    """The settings of a client, as `ClientThread` and `ClusterExecutor` describe them; not checked yet."""

    host: str | None = None
    port: int | None = None
    connect_timeout: float | None = None
    max_outstanding: tuple[int | None, int | None] | None = None
    reconnect_timeout: float | None = None
    seed: int | None = None
    workdir: str | os.PathLike[str] | None = None
    lend: bool = True
    max_workers: int | None = None
    initializer: Callable[..., Any] | None = None
    initargs: Iterable[Any] = ()
    local: bool | int | None = False
    size: int | None = None
    """Number of slots of a cluster that is made for this program, if `local` does not say."""
    forward_logging: bool = True
    modules: Iterable[str | ModuleType] | bool | None = None
    files: Iterable[str | os.PathLike[str]] | None = None

    def start_cluster(self) -> None:
        """Start the cluster that `with_cluster` then finds, if there is no other, and load the modules of the client
        meanwhile. Raises what that raises."""
        self._find_cluster(None)

    def with_cluster(self, user: own_cluster.User) -> ClientSettings:
        """Return them with the host of a cluster of the program's own, if there is no other. Raises ConnectionError,
        LaunchError, StartRefused, TypeError, ValueError."""
        cluster = self._find_cluster(user)
        if cluster is None:
            return self
        # A limit that holds anyway would cost: no job could be sent ahead.
        is_limited = self.max_workers is not None and cluster.slots > self.max_workers
        return self._replace(host=cluster.master, max_workers=self.max_workers if is_limited else None)

    def _find_cluster(self, user: own_cluster.User | None) -> LocalCluster | None:
        has_host = self.host is not None or self.port is not None
        if has_host and self.local:
            raise ValueError(f"local={self.local} and a host contradict each other: give one of them")
        if has_host or self.local is False:
            return None
        is_patient = self.connect_timeout is not None
        return own_cluster.cluster_for(user, self.local, check_workers(self.size), is_patient)


class Closable(Protocol):
    """What is closed: the store of a client."""

    def close(self) -> None: ...


@contextlib.contextmanager
def closed_on_error(thing: Closable | None) -> Iterator[None]:
    """Close this, if there is something, when the block raises."""
    try:
        yield
    except BaseException:
        if thing is not None:
            thing.close()
        raise


def check_patience(name: str, value: Any, default: float) -> float:
    """Return how long a client looks for a master (seconds); `value` may be None. Raises TypeError, ValueError."""
    seconds = default if value is None else to_seconds(name, value)
    if not seconds >= 0:  # nor is it 'nan'
        raise ValueError(f"{name} must be a number of seconds, 0 or more, not {value!r}")
    return min(seconds, MOST_SECONDS)


def check_flag(name: str, value: Any) -> bool:
    """Return a setting that is True or False. Raises TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def check_workers(most: Any) -> int | None:
    """The number of `max_workers`, which may be None. Raises TypeError, ValueError, as ProcessPoolExecutor does."""
    if most is None:
        return None
    try:
        number = operator.index(most)
    except TypeError:
        raise TypeError(f"max_workers must be an int or None, not {most!r}") from None
    if number <= 0:
        raise ValueError("max_workers must be greater than 0")
    return number


def check_outstanding(limits: Any) -> tuple[int | None, int | None]:
    """(jobs, bytes) of `max_outstanding`, which may be None. Raises TypeError, ValueError."""
    text = f"max_outstanding is (jobs, bytes), each a number above 0 or None, not {limits!r}"
    if limits is None:
        return None, None
    if not isinstance(limits, (tuple, list)) or len(limits) != 2:
        raise TypeError(text)
    for limit in limits:
        try:
            if limit is not None and not limit > 0:
                raise ValueError(text)
        except TypeError:
            raise TypeError(text) from None
    return limits[0], limits[1]


# --- map --------------------------------------------------------------------------------------


class MapArguments(TypedDict, total=False):
    """Keyword arguments of a map, for type checkers; `ClusterExecutor.map` describes them."""

    timeout: float | None
    chunksize: int
    buffersize: int | None
    store: str | os.PathLike[str] | None
    progress: bool | Literal["always"]
    as_completed: bool
    return_exceptions: bool


class LoopArguments(MapArguments, total=False):
    """Keyword arguments of `cw.map`, for type checkers."""

    host: str | None
    port: int | None
    local: bool | int | None
    durability: Literal["process", "disk"]
    retry_errors: bool
    key: Callable[..., Any] | None
    version: Any
    seed: int | None
    workdir: str | os.PathLike[str] | None
    modules: Iterable[str | ModuleType] | bool | None
    files: Iterable[str | os.PathLike[str]] | None
    output: Literal["print", "keep", "log", "drop"] | None
    report: str | os.PathLike[str] | None


class DetachedLoopArguments(LoopArguments, total=False):
    """Keyword arguments of `cw.map` and `cw.starmap`, for type checkers."""

    detach: bool | str


class MapSettings(NamedTuple):
    """Parameters of a map, as `ClusterExecutor.map` describes them."""

    timeout: float | None = None
    chunksize: int = 1
    buffersize: int | None = None
    store: str | os.PathLike[str] | None = None
    progress: bool | Literal["always"] = False
    as_completed: bool = False
    return_exceptions: bool = False

    def checked(self) -> MapSettings:
        """Return the settings with their numbers as ints. Raises TypeError, ValueError."""
        chunksize, buffersize = operator.index(self.chunksize), self.buffersize
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            try:
                buffersize = operator.index(buffersize)
            except TypeError:
                raise TypeError("buffersize must be an integer or None") from None
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        return self._replace(chunksize=chunksize, buffersize=buffersize)
