"""Functions of a session's calls in another environment: a job that no worker could enter is sent again with it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from cw.net import messages as m
from cw.net.objects import Object
from cw.payloads import objects


class Table(Protocol):
    """The objects of a session."""

    names: dict[int, str]

    @property
    def environment(self) -> int: ...

    def get(self, number: int) -> Object: ...

    def add(self, kind: int, needs: Sequence[int], payload: Any, digest: Hashable = None) -> int: ...


def moved(table: Table, number: int) -> int:
    """Return the number of the FUNCTION that is like this one, but in the table's present environment."""
    item, environment = table.get(number), table.environment
    if item.runs_in == environment:
        return number
    function = objects.load_function(item.payload)
    others = {item.runs_in: environment}
    if function.first:  # the initializer's FUNCTION, and its arguments
        first, args = function.first
        others[first] = moved(table, first)
        function = function._replace(first=(others[first], args))
    needs = list(dict.fromkeys(others.get(need.number, need.number) for need in item.needs))
    found = table.add(m.FUNCTION, needs, objects.dump_function(function))
    table.names[found] = table.names.get(number, "")
    return found
