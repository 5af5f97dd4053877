"""Classes that travel by value: their owner, the identity under which they travel, the version in force.

       client                                        runner (its `__main__` is another module)
    class C, local              --(id, definition)-->  C', made once under that id
    C(1)                        --(id) instance----->  C'(1)
    isinstance(x, C)            <--(id) instance-----  C'(2)

A class belongs to the process that defined it, which ignores what others say about its attributes. Others apply a
definition once per version. Functions that old pickles refer to must stay here, or be found through `byvalue`.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import weakref
from collections.abc import Callable
from typing import Any

_id_by_class: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()
_class_by_id: weakref.WeakValueDictionary[bytes, type] = weakref.WeakValueDictionary()
# Contains classes of other processes only: all others belong to this one.
_version_by_foreign_class: weakref.WeakKeyDictionary[type, bytes] = weakref.WeakKeyDictionary()


def new_version() -> bytes:
    """Return a random version: no other process uses the same one for something else."""
    return os.urandom(8)


def is_foreign(cls: type) -> bool:
    """True if a class was made from a pickle of another process."""
    return cls in _version_by_foreign_class


def version_in_force(cls: type) -> bytes:
    """Return the version of a class that was made from a pickle; b"": none."""
    return _version_by_foreign_class.get(cls, b"")


def forget_version(cls: type) -> None:
    """Apply the next definition of a class that comes, whatever its version."""
    if cls in _version_by_foreign_class:
        _version_by_foreign_class[cls] = b""


def identity_of(cls: type) -> bytes:
    """Return the identity under which instances of a class travel, from this process on."""
    identity = _id_by_class.setdefault(cls, os.urandom(16))
    _class_by_id[identity] = cls
    return identity


def class_with(identity: bytes) -> type | None:
    """Return the class of this id; None: it is not here."""
    return _class_by_id.get(identity)


def adopt(identity: bytes, cls: type) -> None:
    """Take objects that an earlier process pickled under this identity for instances of our class."""
    if cls not in _version_by_foreign_class:
        _class_by_id[identity] = cls


def make_class(identity: bytes, make: Callable[..., type], arguments: tuple[Any, ...]) -> type:
    """Return, in a pickle, the class of this id; if it is new, an empty one for `set_class_state` to fill."""
    cls = _class_by_id.get(identity)
    if cls is None:
        cls = make(*arguments)
        _id_by_class[cls] = identity
        _class_by_id[identity] = cls
        _version_by_foreign_class[cls] = b""
    return cls


def set_class_state(cls: type, state: tuple[Callable[..., Any], Any, bytes]) -> None:
    """Fill a class, in a pickle, unless it is ours or has this version already."""
    set_state, attributes, version = state
    if _version_by_foreign_class.get(cls, version) != version:
        set_state(cls, attributes)
        _version_by_foreign_class[cls] = version


def known_class(identity: bytes, version: bytes, definition: bytes) -> type:
    """Return, in a pickle, the class of this id, made or renewed from its definition if necessary."""
    return _in_force(identity, version) or _made_from(definition)


def stored_class(identity: bytes, version: bytes, digest: bytes) -> type:
    """Return, in a pickle of a store, the class of this id, made or renewed from the definition with this digest if
    necessary."""
    cls = _in_force(identity, version)
    if cls is not None:
        return cls
    definition = definitions.get(digest)
    if definition is None:
        raise pickle.UnpicklingError("a class whose definition is not here")
    return _made_from(definition)


def _in_force(identity: bytes, version: bytes) -> type | None:
    """Return the class of this id if it is ours or has this version."""
    cls = _class_by_id.get(identity)
    return cls if cls is not None and _version_by_foreign_class.get(cls, version) == version else None


def _made_from(definition: bytes) -> type:
    made: type = pickle.loads(definition)
    return made


def class_of(identity: bytes) -> type:
    """Return, in a pickle, the class of this id, whose definition does not travel with it."""
    cls = _class_by_id.get(identity)
    if cls is None and find is not None:
        cls = find(identity)
    if cls is None and identity in definitions:
        cls = _made_from(definitions[identity])
    if cls is None:
        raise pickle.UnpicklingError("a class without a name, whose definition is not here")
    return cls


def key_of_name(name: str) -> bytes:
    """Return the key, in `definitions`, of a class that pickles name as one of the script's."""
    return hashlib.blake2b(b"__main__." + name.encode(), digest_size=16).digest()


def class_of_script(name: str) -> type | None:
    """Return the class that a script has had under this name; None: its definition is not here."""
    definition = definitions.get(key_of_name(name))
    return None if definition is None else _made_from(definition)


definitions: dict[bytes, bytes] = {}
"""Definitions that pickles of stores refer to, by digest, or by the class's identity or `key_of_name`: those of the
stores that this process has read or written."""

find: Callable[[bytes], type | None] | None = None
"""Function that finds a class that is not here yet; set in a runner."""

at_home: set[bytes] = set()
"""Identities of classes whose definitions the client has; filled in a runner."""


def refer_home(cls: type) -> Any:
    """Reduce a class of which the client has the definition; None: another one."""
    identity = _id_by_class.get(cls) if at_home else None
    return (class_of, (identity,)) if identity in at_home else None
