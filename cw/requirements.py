"""Options of a job, and the capacity of a worker: frozen values that alone validate, compare and travel.

    options(timeout=60)  -->  JobOptions(timeout=60)  --to_wire()-->  b'{"timeout":60.0}'  --from_wire()-->  the same

A new option is a field of `JobOptions`, with its check and its help, and the same name in `OptionArguments`; then a
line where it is acted on. All else follows: the arguments of the two `options` methods, and the way of a job's options
to master, worker and runner, where they are an object that many jobs share (`cw.net.objects`).
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict, TypeVar, cast

from cw import needs
from cw.errors import ProtocolError, WorkerLost
from cw.needs import UNITS_PER_GPU, Needs

TEXT = 200
"""Characters of a peer's mistake in a message about it."""

MOST_SECONDS = 1e9
"""The longest time limit of a job: 30 years. A longer one is cut to that."""

MOST_PRIORITY = 2**63 - 1
"""The largest priority; the smallest is its negative."""

OPTIONS_BYTES = 4096
"""Most bytes of a job's options on the wire. Larger: more of the master's memory, as each open job may have its own."""

OUTPUT_MODES = "print", "keep", "log", "drop"
"""What can be done with what a job prints. The first one is the default."""

MOST_SLOTS = 65535
"""Most slots of one worker."""

MOST_ALTERNATIVES = 8
"""Most alternatives of one job. Larger: each worker is compared with more vectors."""


def to_seconds(name: str, value: Any) -> float:
    """A number of seconds that a user gave. Raises TypeError."""
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        return float(value)
    except OverflowError:
        return math.inf
    except TypeError:
        raise TypeError(f"{name} must be a number of seconds, not {value!r}") from None


def _int(name: str, value: Any, least: float, most: float = math.inf) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # numpy's integers are no ints
    except TypeError:
        raise TypeError(f"{name} must be an int, not {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be {least} or more, not {number}")
    if number > most:
        raise ValueError(f"{name} must be at most {most}, not {number}")
    return number


_number = functools.partial(_int, least=0)
_count = functools.partial(_int, least=1)
_cpus = functools.partial(_int, least=1, most=needs.MOST_CPUS)
_nodes = functools.partial(_int, least=1, most=needs.MOST_NODES)


def _priority(name: str, value: Any) -> int:
    number = _int(name, value, -math.inf)
    if abs(number) > MOST_PRIORITY:
        raise ValueError(f"{name} must be from {-MOST_PRIORITY} to {MOST_PRIORITY}, not {number}")
    return number


def _errors(name: str, value: Any) -> tuple[type[Exception], ...]:
    classes = value if isinstance(value, tuple) else (value,)
    for each in classes:
        if not isinstance(each, type) or not issubclass(each, BaseException):
            raise TypeError(f"{name} must be a class of exceptions, or a tuple of such, not {value!r}")
        if not issubclass(each, Exception):
            raise ValueError(
                f"{name}: a job that raises {each.__name__} wants to end; give subclasses of Exception"
            )
        if issubclass(each, WorkerLost):
            raise ValueError(
                f"{name}: {each.__name__} is not raised by a job; attempts=N is for what kills its runner"
            )
    if not classes:
        raise ValueError(f"{name} must have at least one class of exceptions")
    return classes


def _duration(name: str, value: Any) -> float:
    seconds = to_seconds(name, value)
    if not 0 < seconds < math.inf:
        raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")
    return min(seconds, MOST_SECONDS)


def _keep(name: str, value: Any) -> str:
    if value != "keep":
        raise ValueError(f"{name} must be 'keep' or None, not {value!r}")
    return "keep"


def _output(name: str, value: Any) -> str:
    if value not in OUTPUT_MODES:
        modes = ", ".join(map(repr, OUTPUT_MODES))
        raise ValueError(f"{name} must be one of {modes} or None, not {value!r}")
    return str(value)


def _alternatives(name: str, value: Any) -> tuple[tuple[tuple[str, Any], ...], ...]:
    """The options of each alternative as pairs, sorted by name."""
    right = f'{name} must be a list of options, such as [{{"gpus": 1}}, {{"cpus": 16}}]'
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence):
        raise TypeError(f"{right}, not {value!r}")
    if not 1 <= len(value) <= MOST_ALTERNATIVES:
        raise ValueError(f"{name} must have from 1 to {MOST_ALTERNATIVES} entries, not {len(value)}")
    found = []
    for each in value:
        try:
            options = dict(each)
        except (TypeError, ValueError):
            raise TypeError(f"{right}, not {value!r}") from None
        for option, asked in options.items():
            if option not in _CHECKS:
                raise ValueError(f"{name}: {option!r} cannot differ between them; {', '.join(_CHECKS)} can")
            options[option] = _CHECKS[option](f"{name}: {option}", asked)
        found.append(tuple(sorted(options.items())))
    return tuple(found)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "cpus": _cpus, "gpus": needs.to_gpus, "memory": needs.to_bytes, "resources": needs.to_amounts,
    "tags": needs.to_tags,
}  # fmt: skip
"""The options that say what a job needs, with their checks."""


def _option(check: Callable[[str, Any], Any], text: str, is_sent: bool = True) -> Any:
    """`is_sent`: the other roles know it, too, not the client alone."""
    return field(default=None, metadata={"check": check, "help": text, "is_sent": is_sent})


@dataclass(frozen=True)
class JobOptions:
    """The options of a job; None is the default of each. Raises TypeError, ValueError, which say what is right."""

    attempts: int | None = _option(
        _count,
        """number of runners that a job may take down before it fails with WorkerLost (default 3). With 1 it is never
        tried again once it may have started, whatever the reason.""",
    )
    timeout: float | None = _option(
        _duration,
        """seconds that a job may run, from its start (waiting does not count); for `map`, each chunk is a job. Then its
        process and all processes that it has started get SIGINT (a KeyboardInterrupt in the job), a second later
        SIGTERM, another second later SIGKILL; the job fails with JobTimeout and is not tried again.""",
    )
    min_time: float | None = _option(
        _duration,
        """seconds that a job needs. It does not start on a worker that will be taken away sooner, for example at the
        end of a Slurm allocation.""",
    )
    attempts_by_limit: int | None = _option(
        _count,
        """number of times that a job may be cut short because its worker's time is over, as at the end of a Slurm
        allocation; then it fails with WorkerLost (default: any number).""",
    )
    on_limit: str | None = _option(
        _keep,
        """with "keep", the job catches KeyboardInterrupt and returns the best result that it has. The value that it
        returns after that SIGINT, at its time limit or when its worker ends, is its result. Without this option that
        value is dropped, and the job fails with JobTimeout or runs again elsewhere. An exception raised then is always
        dropped.""",
    )

    priority: int | None = _option(
        _priority,
        """jobs with a larger one start before other jobs of this client that wait (default 0); others may be negative.
        Jobs that workers have been sent already are not called back.""",
    )
    retries: int | None = _option(
        _number,
        """number of times that a job that raises is tried again, on another worker if there is one (default 0). If the
        last try raises, too, its exception has the others as notes. What kills a runner is counted by `attempts`.""",
    )
    retry_on: type[Exception] | tuple[type[Exception], ...] | None = _option(
        _errors,
        """exception, or tuple of exceptions, after which a job is tried again (default: any Exception that it raises).
        An exception of cw's own counts only if its class is named, as in `retry_on=cw.JobTimeout`.""",
        is_sent=False,
    )
    cpus: int | None = _option(
        _cpus,
        """CPUs that the job uses while it runs (default 1). It starts where so many are free; its libraries are told to
        use as many threads.""",
    )
    gpus: float | None = _option(
        needs.to_gpus,
        """GPUs that the job uses: whole ones, or a part of one device such as 0.5. A job without this option sees
        none.""",
    )
    memory: int | str | None = _option(
        needs.to_bytes,
        """memory that the job uses, in bytes or as a text such as "8GB".""",
    )
    resources: Mapping[str, int] | tuple[tuple[str, int], ...] | None = _option(
        needs.to_amounts,
        """amounts of what workers have by names of your own, such as {"licence": 1}.""",
    )
    tags: str | Sequence[str] | None = _option(
        needs.to_tags,
        """what the worker must be: one tag or several, as its --tags names them.""",
    )
    nodes: int | None = _option(
        _nodes,
        """machines that the job uses (default 1): it runs on the first of them, and starts programs on all, such as
        mpirun. cw.current_job() has their names, and a hostfile. All other options are about each machine.""",
    )
    alternatives: Sequence[Mapping[str, Any]] | None = _option(
        _alternatives,
        """a list of such options, the first preferred: the job runs as any of them, as in [{"gpus": 1}, {"cpus": 16}].
        It starts as a later one only where it cannot start as an earlier one now. What is not named in one is as the
        other options say.""",
    )
    output: str | None = _option(
        _output,
        """what becomes of what the job prints, also from C code and from processes that it starts. "print" (the
        default): it appears on this program's stdout and stderr as it comes. "keep": up to 64 KiB of it come with the
        result. "log": it goes to the log of the worker. "drop": it is dropped. If the job fails, its last 64 KiB come
        with the error in any case.""",
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if value is not None:
                object.__setattr__(self, option.name, option.metadata["check"](option.name, value))
        if self.alternatives and len(self.to_wire()) > OPTIONS_BYTES:
            raise ValueError(
                f"alternatives must not be that long: options have at most {OPTIONS_BYTES} bytes"
            )
        if self.retry_on is not None and self.retries is None:
            raise ValueError("retry_on needs retries: the number of times that a job is tried again")

    @property
    def needs(self) -> Needs:
        """What the job takes from its worker; of alternatives, the first."""
        return self.choices[0]

    @functools.cached_property
    def choices(self) -> tuple[Needs, ...]:
        """What the job may run as, the first preferred: one entry for each alternative."""
        common = {name: getattr(self, name) for name in _CHECKS}
        alternatives = cast(tuple[tuple[tuple[str, Any], ...], ...], self.alternatives) or ((),)
        found = (common | dict(alternative) for alternative in alternatives)
        return tuple(
            Needs(
                each["cpus"] or 1, round((each["gpus"] or 0) * UNITS_PER_GPU), each["memory"] or 0,
                each["resources"] or (), each["tags"] or (), self.nodes or 1,
            )
            for each in found
        )  # fmt: skip

    def to_wire(self) -> bytes:
        """The payload of an object: JSON of the options that are set, by name."""
        values = (
            (option.name, getattr(self, option.name)) for option in fields(self) if option.name in _SENT
        )
        return json.dumps(
            {name: value for name, value in values if value is not None}, separators=(",", ":")
        ).encode()

    @classmethod
    def from_wire(cls, payload: Any) -> JobOptions:
        """The options in this payload. Raises ProtocolError."""
        if len(payload) > OPTIONS_BYTES:
            raise ProtocolError(f"options of {len(payload)} bytes: more than {OPTIONS_BYTES}")
        try:
            options = json.loads(bytes(payload))
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"options that are not JSON: {str(error)[:TEXT]}") from None
        if not isinstance(options, dict):
            raise ProtocolError(f"options that are no object of JSON: {str(options)[:TEXT]}")
        for name, value in options.items():
            if name not in _SENT or value is None:
                raise ProtocolError(f"an unknown option {name[:TEXT]!r}: {str(value)[:TEXT]!r}")
        try:
            return cls(**options)
        except (TypeError, ValueError) as error:
            raise ProtocolError(f"an invalid option: {str(error)[:TEXT]}") from None


class OptionArguments(TypedDict, total=False):
    """The fields of `JobOptions` once more, as the arguments that type checkers know."""

    attempts: int | None
    timeout: float | None
    min_time: float | None
    attempts_by_limit: int | None
    on_limit: str | None
    priority: int | None
    retries: int | None
    retry_on: type[Exception] | tuple[type[Exception], ...] | None
    cpus: int | None
    gpus: float | None
    memory: int | str | None
    resources: Mapping[str, int] | tuple[tuple[str, int], ...] | None
    tags: str | Sequence[str] | None
    nodes: int | None
    alternatives: Sequence[Mapping[str, Any]] | None
    output: str | None


_SENT = [option.name for option in fields(JobOptions) if option.metadata["is_sent"]]

NO_OPTIONS = JobOptions()


# --- the arguments of the methods `options` ---------------------------------------------------

Method = TypeVar("Method", bound=Callable[..., Any])


def takes_options(method: Method) -> Method:
    """Give a method with `**options: Unpack[OptionArguments]` each option as an argument of its own: in the signature
    and the text that help() shows, and in what it says of an unknown one."""
    signature = inspect.signature(method)
    own = [
        parameter for parameter in signature.parameters.values() if parameter.kind != parameter.VAR_KEYWORD
    ]
    options = [
        inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option.type)
        for option in fields(JobOptions)
    ]
    names = [parameter.name for parameter in (*options, *own[1:])]

    @functools.wraps(method)
    def call(*args: Any, **arguments: Any) -> Any:
        for name in arguments:
            if name not in names:
                raise TypeError(
                    f"{method.__name__}() got an unexpected keyword argument {name!r}; it takes {', '.join(names)}"
                )
        return method(*args, **arguments)

    described: Any = call
    described.__signature__ = signature.replace(parameters=[own[0], *options, *own[1:]])
    texts = [f"`{option.name}`: {inspect.cleandoc(option.metadata['help'])}" for option in fields(JobOptions)]
    described.__doc__ = "\n\n".join([inspect.cleandoc(method.__doc__ or ""), *texts])
    return cast(Method, call)


def to_options(arguments: OptionArguments) -> JobOptions:
    """The options that a user has given by name: `NO_OPTIONS` itself if none is set. Raises TypeError, ValueError."""
    options = JobOptions(**arguments)
    return NO_OPTIONS if options == NO_OPTIONS else options


# --- the other side ---------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerCapacity:
    """Capacity of a worker: what it has, in the dimensions of `Needs`, and the jobs that it runs at a time. Raises
    TypeError, ValueError."""

    slots: int
    """Jobs that it runs at a time, whatever they need."""
    cpus: int = 0
    """CPUs that its jobs share; 0 stands for one for each slot. Never less than slots: a job of one CPU takes one."""
    memory: int = 0
    """Bytes that its jobs share; 0: unknown, and no job is refused for its memory."""
    gpus: tuple[str, ...] = ()
    """Its devices, by index or UUID, as the variables for jobs name them."""
    resources: tuple[tuple[str, int], ...] = ()
    tags: tuple[str, ...] = ()
    ends_idle: bool = False
    """It ends when it has had nothing to do for a time: others are not used before it is full."""
    nodes: int = 1
    """Machines. With several, it runs one job at a time, for which all are, and all else is what each has."""

    def __post_init__(self) -> None:
        if not 0 < _int("slots", self.slots, 1) <= MOST_SLOTS:
            raise ValueError(f"slots must be at most {MOST_SLOTS}, not {self.slots}")
        set_field = functools.partial(object.__setattr__, self)
        set_field("cpus", max(self.slots, self.slots if self.cpus == 0 else _cpus("cpus", self.cpus)))
        set_field("memory", 0 if self.memory == 0 else needs.to_bytes("memory", self.memory))
        gpus = tuple(self.gpus)
        if len(set(gpus)) > needs.MOST_GPUS or not all(
            isinstance(gpu, str) and len(gpu) <= 64 for gpu in gpus
        ):
            raise ValueError(
                f"gpus must be names of at most {needs.MOST_GPUS} devices, not {str(gpus)[:TEXT]}"
            )
        if len(set(gpus)) < len(gpus):
            raise ValueError(f"gpus must differ: {str(gpus)[:TEXT]}")
        set_field("gpus", gpus)
        set_field("resources", needs.to_amounts("resources", self.resources))
        set_field("tags", needs.to_tags("tags", self.tags))
        if _nodes("nodes", self.nodes) > 1 < self.slots:
            raise ValueError(f"slots must be 1 on {self.nodes} nodes, not {self.slots}")
        if not isinstance(self.ends_idle, bool):
            raise TypeError(f"ends_idle must be a bool, not {str(self.ends_idle)[:TEXT]}")

    def lacks(self, wanted: Needs) -> tuple[str, ...]:
        """The dimensions, by the names of their options, in which the worker has too little for a job that needs this,
        even if nothing else runs there; empty: it can run it. Unknown memory refuses none."""
        resources = dict(self.resources)
        missing = {
            "nodes": wanted.nodes != self.nodes,
            "cpus": wanted.cpus > self.cpus,
            "gpus": wanted.gpus > len(self.gpus) * UNITS_PER_GPU,
            "memory": 0 < self.memory < wanted.memory,
            "resources": any(amount > resources.get(name, 0) for name, amount in wanted.resources),
            "tags": not {*wanted.tags} <= {*self.tags},
        }
        return tuple(name for name, is_missing in missing.items() if is_missing)

    def to_wire(self) -> dict[str, Any]:
        """The dimensions by name."""
        return {dimension.name: getattr(self, dimension.name) for dimension in fields(self)}

    @classmethod
    def from_wire(cls, offer: object) -> WorkerCapacity:
        """The capacity that a Hello names. Raises ProtocolError."""
        if not isinstance(offer, dict) or not offer.keys() <= {dimension.name for dimension in fields(cls)}:
            raise ProtocolError(f"it offers {str(offer)[:TEXT]}, which is no capacity")
        try:
            return cls(**offer)
        except (TypeError, ValueError) as error:
            raise ProtocolError(f"it offers {str(offer)[:TEXT]}: {str(error)[:TEXT]}") from None
