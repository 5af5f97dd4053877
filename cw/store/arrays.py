"""Canonical bytes of numpy's arrays and scalars, and of pandas' frames.

    array:   dtype, shape, whether it is writable, order in memory (on which the order of a function's additions, and so
             its result, may depend), elements
    scalar:  dtype, bytes
    masked:  data, mask, fill value
    frame:   columns, index, and each column by itself, since a mere access may change how pandas groups columns;
             of other objects of pandas all but their caches, which an access may fill

Neither is imported here: a program with such a value has imported it.
"""

from __future__ import annotations

import sys
from typing import Any

from cw.store.walk import Walk

_FEW = 1 << 20  # elements below which an array is searched for NaNs. Larger: large arrays take twice as long.


class ArrayWalk(Walk):
    """A walk that knows arrays, scalars and frames."""

    def walk_other(self, kind: type, value: Any) -> None:
        package = str(kind.__module__).partition(".")[0]
        if package == "numpy":
            numpy: Any = sys.modules["numpy"]
            if kind is numpy.ndarray:
                if not self.is_known(value):
                    self._array(numpy, value)
                return
            if kind is numpy.ma.MaskedArray:
                if not self.is_known(value):
                    self.write_text(b"masked", f"{value.hardmask} {value.fill_value!r}")
                    self._array(numpy, numpy.asarray(value.data))
                    self._array(numpy, numpy.ma.getmaskarray(value))
                return
            if isinstance(value, numpy.generic) and not value.dtype.hasobject:
                self.write(b"scalar")
                self._array(numpy, numpy.asarray(value))
                return
        elif package == "pandas" and kind is sys.modules["pandas"].DataFrame:
            if not self.is_known(value):
                self._frame(value)
            return
        super().walk_other(kind, value)

    def essence_of(self, value: Any, state: Any) -> Any:
        if str(type(value).__module__).partition(".")[0] == "pandas":
            if type(state) is not tuple:
                return _without_cache(state)
            parts = map(_without_cache, state)
            return tuple(part for part in parts if type(part) is not dict or part)
        return super().essence_of(value, state)

    def _array(self, numpy: Any, value: Any) -> None:
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        self.write_text(b"array", f"{order} {value.shape} {value.dtype.str} {value.dtype.metadata or ''}")
        self.write(b"writable", b"%d" % (value.flags.writeable or self.is_shared))
        if value.dtype.names is not None:  # the padding between the fields may have any content
            places = [value.dtype.fields[name][1:] for name in value.dtype.names]
            self.write_text(
                b"fields",
                repr((value.dtype.names, places, value.dtype.itemsize, value.dtype.isalignedstruct)),
            )
            for name in value.dtype.names:
                self._array(numpy, numpy.asarray(value[name]))
        elif value.dtype.hasobject:
            self.items(value.ravel().tolist())
        elif not self.is_blind and value.size and value.dtype.itemsize:
            flat = numpy.ascontiguousarray(value.T if order == "F" else value).reshape(-1)
            if value.dtype.char in "gG":
                flat = _without_gaps(numpy, flat)
            if value.dtype.kind in "fc" and flat.size < _FEW and numpy.isnan(flat).any():
                if value.dtype.kind == "c":  # real and imaginary part by themselves
                    flat = flat.view(flat.real.dtype)
                flat = numpy.where(numpy.isnan(flat), flat.dtype.type(numpy.nan), flat)
            self.write_bulk(b"=", flat.view("u1").data)

    def _frame(self, frame: Any) -> None:
        self.write_text(b"frame", repr(frame.shape))
        self.walk(frame.columns)
        self.walk(frame.index)
        for place in range(frame.shape[1]):
            column = frame.iloc[:, place]
            self.write_text(b"column", str(column.dtype))
            values = column.values
            if type(values) is sys.modules["numpy"].ndarray:
                self._array(sys.modules["numpy"], values)
            else:
                self.walk(values)
        self.walk(frame.attrs)
        self.walk(frame.flags.allows_duplicate_labels)


def _without_cache(state: Any) -> Any:
    return (
        {name: value for name, value in state.items() if name != "_cache"} if type(state) is dict else state
    )


def _without_gaps(numpy: Any, flat: Any) -> Any:
    """Clear the padding of long doubles: 80 bits take 12 or 16 bytes, and the rest may have any content."""
    flat = flat.astype(flat.dtype.newbyteorder("="))
    if numpy.finfo(flat.dtype).nmant == 63:
        flat.view("u1").reshape(-1, numpy.dtype("g").itemsize)[:, 10:] = 0
    return flat
