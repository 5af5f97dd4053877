"""Values that many calls share (`cw.share`): a reference in each pickle, the value once on each machine.

    client   Shared, a handle --pickled--> value_of(name)    names_in(pickle) --> reach: the function needs the object
    runner   the SHARED object, mapped read-only --> value_of(name): unpickled for each call, over the mapped memory

The name says in any pickle, at any depth, which value it is. So a handle may stand in arguments, in what a closure
holds, in a global name, in an attribute. A handle refuses to be pickled for anything but a runner.
"""

from __future__ import annotations

import pickle
import secrets
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import CodeType, FunctionType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cw.errors import SharedValueReleased
from cw.net import memory
from cw.payloads import constants, current
from cw.payloads.layout import Payload, unpack

T = TypeVar("T")

MARK = "cw-shared-"
"""Beginning of each name. No identifier of Python has it."""

_DIGITS = 32

is_used = False
"""True if this process has shared a value: only then pickles are searched for names."""


class Content:
    """A shared value as it travels. It lives as long as its handle, or a call that is about to be sent."""

    __slots__ = (
        "__weakref__", "codes", "description", "held", "keys", "name", "names", "numbers", "payload", "state"
    )  # fmt: skip

    def __init__(
        self, payload: Payload, names: Sequence[str], codes: Sequence[Any], description: str
    ) -> None:
        """`names`, `codes`: what the pickle refers to, as in `Pickled`."""
        global is_used
        self.name = MARK + secrets.token_hex(_DIGITS // 2)
        self.payload = payload
        self.names = names
        self.codes = codes
        self.held = contents_of(names)
        """Shared values that are inside it."""
        self.description = description
        self.state = {"is_released": False}
        """A dict, so that a `Watch` can watch it."""
        self.keys: dict[Any, Any] = {}
        """What the walk of a store wrote of it."""
        self.numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        """Numbers of its objects, by the sessions' tables."""
        weakref.finalize(self, _forget, self.numbers).atexit = False
        _contents[self.name] = self
        is_used = True

    def check(self) -> None:
        """Raise SharedValueReleased after its release."""
        if self.state["is_released"]:
            raise SharedValueReleased(f"the {self.description} was released: call cw.share() again")

    def release(self) -> None:
        self.state["is_released"] = True
        self.payload = b""
        self.keys.clear()
        _forget(self.numbers)


_contents: weakref.WeakValueDictionary[str, Content] = weakref.WeakValueDictionary()


def _forget(numbers: weakref.WeakKeyDictionary[Any, int]) -> None:
    """Let sessions forget a value as soon as no job needs it. For any thread, even during garbage collection."""
    for table, number in list(numbers.items()):
        table.forget([number])


def content_of(name: str) -> Content:
    """Return the content of this name. Raises SharedValueReleased."""
    content = _contents.get(name)
    if content is None:
        raise SharedValueReleased(
            "a value that was shared is gone: keep what cw.share() returned while calls use it"
        )
    content.check()
    return content


def is_name(name: str) -> bool:
    return name.startswith(MARK)


def names_in(data: bytes) -> list[str]:
    """Return the names of this process's shared values that a pickle refers to."""
    found = set()
    mark = MARK.encode()
    start = data.find(mark)
    while start >= 0:
        end = start + len(mark) + _DIGITS
        name = data[start:end].decode(errors="replace")
        if name in _contents:
            found.add(name)
        start = data.find(mark, end)
    return sorted(found)


def with_shared(names: Sequence[str], data: bytes) -> Sequence[str]:
    """Add the shared values that a pickle refers to to the script's names in it."""
    more = names_in(data)
    return tuple(sorted({*names, *more})) if more else names


def contents_of(names: Iterable[str]) -> list[Content]:
    """Return the contents of names that are there, for a caller who keeps them."""
    return [content for name in names if is_name(name) and (content := _contents.get(name)) is not None]


# --- the handle -------------------------------------------------------------------------------

if TYPE_CHECKING:
    # For type checkers a handle fits wherever its value does: in jobs, it is the value.
    class _Base(Any, Generic[T]):  # type: ignore[misc]
        pass
else:
    _Base = Generic


class Shared(_Base[T]):
    """A value that many calls share, as `cw.share` returns it. It may stand anywhere in what a call is made of: jobs
    see the value itself.

    It is released by `release()`, at the end of a `with` block, or when the program has dropped it.
    """

    _content: Content

    def __init__(self, content: Content) -> None:
        """Made by `cw.share`."""
        self._content = content

    @property
    def value(self) -> T:
        """The value, as it was when it was shared and as jobs see it: arrays are read-only. Raises ValueError after
        `release`."""
        self._content.check()
        value: T = load(self._content.payload)
        return value

    def release(self) -> None:
        """Free the memory of the value here and on all machines, as soon as no submitted job needs it any more. A later
        use raises ValueError. May be called again."""
        self._content.release()

    def __enter__(self) -> Shared[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        is_released = ", released" if self._content.state["is_released"] else ""
        return f"<cw.Shared: {self._content.description}{is_released}>"

    def __copy__(self) -> Shared[T]:
        return self

    def __deepcopy__(self, memo: Any) -> Shared[T]:
        return self

    def __reduce__(self) -> Any:
        frame = sys._getframe(1)
        while frame is not None:
            is_for_runner = _picklers.get(frame.f_code)
            if is_for_runner:
                return reference_of(self)
            if is_for_runner is False and frame.f_locals["is_alone"]:
                return Elsewhere, (self._content.description,)
            frame = frame.f_back  # type: ignore[assignment]
        raise TypeError(
            "a handle of cw.share() has its meaning only in calls that are submitted to cw: pickle its .value, or "
            "return the value from the job"
        )


_picklers: dict[CodeType, bool] = {}
"""Code of the functions that pickle. True: for a runner, which has the value. False: if they have a variable `is_alone`
that is true, for a store."""

Function = TypeVar("Function", bound=FunctionType | Callable[..., Any])


def pickles_for_runners(function: Function) -> Function:
    """Decorate a function that pickles calls."""
    _picklers[function.__code__] = True
    return function


def pickles_values(function: Function) -> Function:
    """Decorate a function that pickles what no shared values come along with. It has the parameter `is_alone`."""
    _picklers[function.__code__] = False
    return function


class Elsewhere:
    """Stands for a shared value in the arguments that a store has recorded: these do not contain it."""

    def __init__(self, description: str) -> None:
        self.description = description

    def __repr__(self) -> str:
        return f"<{self.description}>"

    def __eq__(self, other: object) -> bool:
        return type(other) is Elsewhere and other.description == self.description

    def __hash__(self) -> int:
        return hash(self.description)

    def __reduce__(self) -> Any:
        return Elsewhere, (self.description,)


def reference_of(handle: Shared[Any]) -> Any:
    """Reduce a handle to the value's name."""
    return value_of, (handle._content.name,)


def name_of(handle: Shared[Any]) -> str:
    return handle._content.name


def content_in(handle: Shared[Any]) -> Content:
    """Return what a handle stands for. Raises SharedValueReleased."""
    handle._content.check()
    return handle._content


# --- values -----------------------------------------------------------------------------------

values: dict[str, Any] = {}
"""Shared values of the call that runs, so that all its references give one object. Emptied after each call."""

is_in_job = False
"""True if the job that runs may have a shared value."""

_payloads: dict[str, tuple[int, Any]] = {}  # in a runner: number of the object, and its payload, mapped
_fixed: dict[str, Any] = {}  # values that cannot change


_IMMUTABLE = frozenset({bytes, str, tuple, frozenset})
"""Types of values that are unpickled once in a runner, if they hold nothing that can change."""


def value_of(name: str) -> Any:
    """Return a shared value, while a call is unpickled. In the client it is the handle."""
    if name in values:
        return values[name]
    if name in _fixed:
        value = _fixed[name]
    elif name in _payloads:
        value = load(_payloads[name][1])
        if type(value) in _IMMUTABLE and constants.is_constant(value):
            _fixed[name] = value
    else:
        return Shared(content_of(name))
    values[name] = value
    current.due.add("shared")
    return value


def load(payload: Payload) -> Any:
    """Unpickle a shared value. Its arrays are read-only, and use the payload's memory."""
    if payload[:1] != b"\x01":
        return pickle.loads(payload)
    data, buffers = unpack(memoryview(payload).cast("B").toreadonly())
    return pickle.loads(data, buffers=buffers)


def take(name: str, number: int, payload: Any) -> None:
    """Note, in a runner, where the value of this name is."""
    known = _payloads.get(name)
    if known is None or known[0] != number:
        _payloads[name] = number, memory.read_only(payload)


def forget(number: int) -> list[str]:
    """Forget, in a runner, the value that came as this object. Returns its names."""
    gone = [name for name, (known, _) in _payloads.items() if known == number]
    for name in gone:
        del _payloads[name]
        _fixed.pop(name, None)
    return gone


_READ_ONLY = ("read-only", "WRITEABLE")
_NOTE = "The data came from cw.share(), which maps it read-only for all jobs of a machine: change a copy, data.copy()"


def explain(error: BaseException) -> None:
    """Add a note to the error of a job that had shared values, if it may come from a write to one."""
    if not isinstance(error, (ValueError, TypeError, BufferError)):
        return
    text = str(error)
    if not any(part in text for part in _READ_ONLY) or _NOTE in text:
        return
    if sys.version_info >= (3, 11):
        if _NOTE not in getattr(error, "__notes__", ()):
            error.add_note(_NOTE)
    elif len(error.args) == 1:
        error.args = (f"{text}\n{_NOTE}",)
