"""The user's settings for clusters in a batch system: `~/.cw/slurm.toml`.

    [defaults]              ClusterOptions of a command or a call ---.
    account = "physics"     the chosen profile ----------------------|--> fill() --> ClusterOptions
    [profiles.gpu]          the defaults ----------------------------'
    partition = "gpu"

The first that names an option counts. Lists add up, the defaults first, as for sbatch the last of two options counts.
The keys are the names of options in Python; `mem-per-cpu` means the same as `mem_per_cpu`.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Collection
from typing import Any

from cw import userdir
from cw.launch.options import FOR_SLURM, ClusterOptions

_FILE = "slurm.toml"

_OF_ONE_START = {"name", "nodes", "profile", "kind", "max", "min", "backlog"}

KEYS = tuple(sorted({*FOR_SLURM, "master_options", "worker_options"} - _OF_ONE_START))
"""Options that the file may have. (Name and size of a cluster belong to one start.)"""

_PROFILES = "profiles"
_DEFAULTS = "defaults"

Table = dict[str, Any]


def path() -> str:
    """Return the path of the file, which need not exist."""
    return os.path.join(userdir.home_directory(), _FILE)


def fill(options: ClusterOptions) -> ClusterOptions:
    """Return the options, with the profile's and the defaults where they are not given. Raises ValueError for a file
    that is not as it should be, or has no such profile."""
    for _, table in reversed(_chosen(options.profile or "")):
        options = options._replace(**{key: _joined(options, key, value) for key, value in table.items()})
    return options


def origins(profile: str) -> list[str]:
    """Return what is taken from the file, a sentence for each of its tables: for a reader."""
    return [f"[{name}] of {path()} gives {', '.join(table)}" for name, table in _chosen(profile) if table]


def _chosen(profile: str) -> list[tuple[str, Table]]:
    """Return the tables that count, (name, options), the weakest first."""
    tables = _load()
    found = [(_DEFAULTS, tables.pop(_DEFAULTS, {}))]
    if profile:
        name = f"{_PROFILES}.{profile}"
        if name not in tables:
            known = ", ".join(other.partition(".")[2] for other in tables)
            has = f"it has {known}" if known else f"write its options there, under [{name}]"
            raise ValueError(f"there is no profile {profile!r} in {path()}: {has}")
        found.append((name, tables[name]))
    return found


def _load() -> dict[str, Table]:
    """Return all tables of the file, by name: 'defaults', 'profiles.gpu'."""
    if not userdir.check_home():  # others can write no file in there
        return {}
    try:
        with open(path(), encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path()} cannot be read: {getattr(error, 'strerror', error)}") from None
    content = _parse(text)
    _check_keys("it", content, (_DEFAULTS, _PROFILES))
    profiles = content.get(_PROFILES, {})
    if not isinstance(profiles, dict):
        raise ValueError(
            f"{path()}: {_PROFILES} is no table: begin each profile with a line [{_PROFILES}.NAME]"
        )
    tables = {f"{_PROFILES}.{name}": table for name, table in profiles.items()}
    if _DEFAULTS in content:
        tables[_DEFAULTS] = content[_DEFAULTS]
    return {name: _checked(name, table) for name, table in tables.items()}


def _parse(text: str) -> Table:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content: Table = tomllib.loads(text)
        return content
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f'{path()} is no TOML: {error} (texts stand in quotes: time = "2:00:00")') from None


def _checked(name: str, table: object) -> Table:
    """Return the table with the names of options as its keys, and with values of their types."""
    if not isinstance(table, dict):
        raise ValueError(f"{path()}: {name} is no table: begin it with a line [{name}]")
    found = {key.replace("-", "_"): value for key, value in table.items()}
    _check_keys(f"[{name}]", found, KEYS)
    return {key: _value(name, key, value) for key, value in found.items()}


def _check_keys(where: str, table: Table, known: Collection[str]) -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        listed = []
        for key in unknown:
            near = difflib.get_close_matches(key, known, 1, 0.7)
            listed.append(f"{key} (is it {near[0]}?)" if near else key)
        raise ValueError(
            f"{path()}: {where} has what is not known: {', '.join(listed)}; known are {', '.join(known)}"
        )


def _value(name: str, key: str, value: object) -> object:
    """Return a value as ClusterOptions has it."""
    kind, example = _kind(key)
    is_texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    is_flag, is_number = isinstance(value, bool), isinstance(value, int | float)
    if kind == "flag" and is_flag:
        return value
    if kind == "number" and is_number and not is_flag:
        return value
    if kind == "list" and (is_texts or (isinstance(value, str) and key not in _ONLY_LISTS)):
        return value
    if kind == "text" and (isinstance(value, str) or (is_number and not is_flag)):
        return str(value)
    raise ValueError(f"{path()}: {key} of [{name}] is {value!r}: give {key} = {example}")


_ONLY_LISTS = ("batch_options", "master_options", "worker_options")


def _kind(key: str) -> tuple[str, str]:
    """Return the kind of an option's values, and an example of one in TOML."""
    annotation = str(ClusterOptions.__annotations__[key])
    if "Sequence" in annotation:
        return "list", '["..."]'
    if "bool" in annotation:
        return "flag", "true or false"
    if "str" not in annotation:
        return "number", "a number"
    return "text", '"..."'


def _joined(options: ClusterOptions, key: str, value: object) -> Any:
    """Return the value of an option that the file gives, too."""
    given = getattr(options, key)
    if _kind(key)[0] == "list":
        of_file: Any = {key: value}
        return [*ClusterOptions(1, **of_file).list_of(key), *options.list_of(key)]
    return value if given == ClusterOptions._field_defaults[key] else given
