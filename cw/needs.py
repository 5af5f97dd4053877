"""What a job needs of a worker while it runs, and what a worker has: vectors over the same dimensions.

options(cpus=4, memory="8GB")  -->  Needs(cpus=4, memory=8_000_000_000)  <= ?  WorkerCapacity
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cw.named_tuple import NamedTuple

UNITS_PER_GPU = 10_000
"""Shares into which a device can be divided: fractions are counted in whole numbers, so that sums are exact."""

MOST_CPUS = 65535
MOST_NODES = 65535
MOST_GPUS = 1024
MOST_BYTES = 2**60
MOST_AMOUNT = 10**9
"""Most of a resource with a name of the user's own."""

MOST_NAMES = 16
"""Most resources, and most tags, of one job or worker."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}")
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([KMGTP]?)(i?)B?\s*", re.IGNORECASE)
_POWERS = {letter: power for power, letter in enumerate(["", "K", "M", "G", "T", "P"])}


class Needs(NamedTuple):
    """What one job takes from a worker while it runs. The order of the fields has no meaning."""

    cpus: int = 1
    gpus: int = 0
    """In shares of a device: `UNITS_PER_GPU` is a whole one. Less than a whole one is a part of *one* device."""
    memory: int = 0
    """Bytes; 0: not named."""
    resources: tuple[tuple[str, int], ...] = ()
    """Amounts of resources with names of the user's own, by name."""
    tags: tuple[str, ...] = ()
    """What the worker must be, by name."""
    nodes: int = 1
    """Machines: a worker has exactly as many for one job at a time. All else is taken of each of them."""


ONE_CPU = Needs()
"""What a job needs that names nothing."""


def pick_devices(free: Sequence[int], gpus: int) -> tuple[int, ...] | None:
    """Indices of the devices that a job gets which needs `gpus`; `free`: the free shares of each device. A part of one
    comes from the device with the least that suffices, so that whole ones stay whole. None: not free."""
    if gpus < UNITS_PER_GPU:
        fitting = [index for index, shares in enumerate(free) if shares >= gpus]
        return (min(fitting, key=free.__getitem__),) if fitting and gpus else None if gpus else ()
    whole = tuple(index for index, shares in enumerate(free) if shares >= UNITS_PER_GPU)
    count = gpus // UNITS_PER_GPU
    return whole[:count] if len(whole) >= count else None


def to_bytes(name: str, value: Any) -> int:
    """A number of bytes, such as 8_000_000, "8GB" (10**9 each) or "8GiB" (2**30 each). Raises TypeError, ValueError."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise ValueError(f'{name} must be a size such as "8GB" or "512MiB", not {value!r}')
        number, letter, binary = match.groups()
        count = float(number) * (1024 if binary else 1000) ** _POWERS[letter.upper()]
    else:
        try:
            if isinstance(value, bool):
                raise TypeError
            count = float(value)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(
                f'{name} must be a number of bytes, or a size such as "8GB", not {value!r}'
            ) from None
    if not 1 <= count <= MOST_BYTES:
        raise ValueError(f"{name} must be from 1 byte to {MOST_BYTES}, not {value!r}")
    return int(count)


def to_gpus(name: str, value: Any) -> float:
    """A number of GPUs: a whole one, a part of one device, or none. Raises TypeError, ValueError."""
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        count = float(value)
    except (TypeError, OverflowError):
        raise TypeError(f"{name} must be a number, not {value!r}") from None
    if not 0 <= count <= MOST_GPUS or (count > 1 and count != int(count)):
        raise ValueError(f"{name} must be a whole number, or a part of one device such as 0.5, not {value!r}")
    if count and round(count * UNITS_PER_GPU) < 1:
        raise ValueError(f"{name} must be {1 / UNITS_PER_GPU} or more, not {value!r}")
    return int(count) if count >= 1 or not count else round(count * UNITS_PER_GPU) / UNITS_PER_GPU


def to_amounts(name: str, value: Any) -> tuple[tuple[str, int], ...]:
    """Amounts by name, such as {"licence": 1}; or the pairs of such a mapping. Raises TypeError, ValueError."""
    right = f'{name} must be whole numbers by name, such as {{"licence": 1}}, not {value!r}'
    try:
        pairs = dict(value)
        if any(isinstance(amount, bool) for amount in pairs.values()):
            raise TypeError
        counts = {key: operator.index(amount) for key, amount in pairs.items()}
    except (TypeError, ValueError):
        raise TypeError(right) from None
    amounts = {_name(name, key): count for key, count in counts.items()}
    for key in {*amounts} & {"cpus", "gpus", "memory", "nodes"}:
        raise ValueError(f"{name}: {key!r} is not a name of your own: give it as the option {key}")
    for key, amount in amounts.items():
        if not 0 < amount <= MOST_AMOUNT:
            raise ValueError(f"{name}: the amount of {key!r} must be from 1 to {MOST_AMOUNT}, not {amount}")
    if len(amounts) > MOST_NAMES:
        raise ValueError(f"{name} must have at most {MOST_NAMES} names, not {len(amounts)}")
    return tuple(sorted(amounts.items()))


def to_tags(name: str, value: Any) -> tuple[str, ...]:
    """Tags: one text, or several. Raises TypeError, ValueError."""
    tags = (value,) if isinstance(value, str) else value
    if not isinstance(tags, Iterable) or isinstance(tags, (bytes, Mapping)):
        raise TypeError(f'{name} must be a text such as "avx512", or several, not {value!r}')
    found = tuple(sorted({_name(name, tag) for tag in tags}))
    if len(found) > MOST_NAMES:
        raise ValueError(f"{name} must be at most {MOST_NAMES}, not {len(found)}")
    return found


def _name(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be named by texts, not {value!r}")
    if not _NAME.fullmatch(value):
        raise ValueError(f"{name}: {value[:100]!r} is no name: give letters, digits and _ . : -, at most 64")
    return value


def format_bytes(count: int) -> str:
    """A size for messages, as `to_bytes` takes it: 8GB, 1.5GB."""
    power = min(int(math.log(max(count, 1), 1000)), 5)
    return f"{count / 1000**power:.3g}{'kMGTP'[power - 1] if power else ''}B"
