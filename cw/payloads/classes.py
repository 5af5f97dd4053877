"""Classes that travel by value: who owns them, under which identity they travel, which version is in force.

       client                                        runner (its `__main__` is another module)
    class C, local              --(id, definition)-->  C', made once under that id
    C(1)                        --(id) instance----->  C'(1)
    isinstance(x, C)            <--(id) instance-----  C'(2)

A class belongs to the process that defined it: it ignores what others say about its attributes. Others apply a
definition once per version of it. What is in pickles of the past must stay here, or be found through `byvalue`.
"""

from __future__ import annotations

import os
import pickle
import weakref
from collections.abc import Callable
from typing import Any

_id_by_class: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()
_class_by_id: weakref.WeakValueDictionary[bytes, type] = weakref.WeakValueDictionary()
# Only classes of other processes are in here: a class that is not belongs to this one.
_version_by_foreign_class: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()


def new_version() -> bytes:
    """Random: no other process gives the same one to something else."""
    return os.urandom(8)


def is_foreign(cls: type) -> bool:
    """Whether a class was made from a pickle of another process."""
    return cls in _version_by_foreign_class


def version_in_force(cls: type) -> bytes:
    """Of a class that was made from a pickle; b"": of none."""
    return _version_by_foreign_class.get(cls, b"")


def forget_version(cls: type) -> None:
    """The next definition of a class that comes is applied, whatever its version."""
    if cls in _version_by_foreign_class:
        _version_by_foreign_class[cls] = b""


def identity_of(cls: type) -> bytes:
    """Under which instances of a class travel, from this process on."""
    identity = _id_by_class.setdefault(cls, os.urandom(16))
    _class_by_id[identity] = cls
    return identity


def adopt(identity: bytes, cls: type) -> None:
    """Take what was pickled under this identity, in an earlier process, for instances of our class."""
    if cls not in _version_by_foreign_class:
        _class_by_id[identity] = cls


def make_class(identity: bytes, make: Callable[..., type], arguments: tuple[Any, ...]) -> type:
    """In a pickle: the class of this id, or else an empty one, which `set_class_state` will fill."""
    cls = _class_by_id.get(identity)
    if cls is None:
        cls = make(*arguments)
        _id_by_class[cls] = identity
        _class_by_id[identity] = cls
        _version_by_foreign_class[cls] = b""
    return cls


def set_class_state(cls: type, state: tuple[Callable[..., Any], Any, bytes]) -> None:
    """In a pickle: fill a class, unless it is ours or filled by this version already."""
    set_state, attributes, version = state
    if _version_by_foreign_class.get(cls, version) != version:
        set_state(cls, attributes)
        _version_by_foreign_class[cls] = version


def known_class(identity: bytes, version: bytes, definition: bytes) -> type:
    """In a pickle: the class of this id, made or renewed from its definition where need be."""
    cls = _class_by_id.get(identity)
    if cls is not None and _version_by_foreign_class.get(cls, version) == version:
        return cls
    found: type = pickle.loads(definition)
    return found


def class_of(identity: bytes) -> type:
    """In a pickle: the class of this id, whose definition does not travel with it."""
    cls = _class_by_id.get(identity)
    if cls is None and find is not None:
        cls = find(identity)
    if cls is None:
        raise pickle.UnpicklingError("a class without a name, whose definition is not here")
    return cls


find: Callable[[bytes], type | None] | None = None
"""In a runner: what is asked for a class that is not here yet."""

at_home: set[bytes] = set()
"""In a runner: identities of classes whose definitions the client has."""


def is_at_home(cls: type) -> bool:
    """Does the client have this class?"""
    return bool(at_home) and _id_by_class.get(cls) in at_home
