"""The initializer of a client's runners, as two objects that each of its functions needs: a call, and its arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cw.client.functions.functions import FunctionTable
from cw.client.session.objects import ObjectTable
from cw.net import messages as m
from cw.payloads.initializer import Initialization, reader_of


class Initializer:
    """An initializer with its arguments, which are pickled now. The owner of `functions` holds its lock around every
    call. Raises NotPicklable; TypeError for what cannot be called."""

    def __init__(
        self,
        functions: FunctionTable,
        objects: ObjectTable,
        initializer: Callable[..., Any],
        initargs: Iterable[Any],
    ) -> None:
        if not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._functions, self._objects = functions, objects
        self._function = Initialization(initializer, reader_of(initializer))
        self._args = tuple(initargs)
        self.prepared = functions.prepare(self._function)
        self._packed = packed = functions.pickle(self._function, self._args, {}, self.prepared)
        for buffers in (packed.buffers, [] if packed.state is None else packed.state.buffers):
            buffers[:] = [memoryview(bytearray(buffer)) for buffer in buffers]  # as they are now
        self._made: tuple[int, tuple[int, int]] | None = None  # for which generation of records

    def numbers(self, generation: int) -> tuple[int, int]:
        """Return the numbers of the FUNCTION object and of the VALUE with the arguments. They are made anew for another
        generation of records, or if they were forgotten."""
        if self._made is None or self._made[0] != generation or not self._objects.has(self._made[1]):
            number, packed = self._functions.place(
                self._function, self._args, {}, self.prepared, self._packed
            )
            self._made = generation, (number, self._objects.add(m.VALUE, (), packed.payload()))
        return self._made[1]
