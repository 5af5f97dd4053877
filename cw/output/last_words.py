"""The last output of a job that failed, for a reader of its error: as a part of the remote traceback. Pure."""

from __future__ import annotations

from cw.errors import RemoteTraceback


def text_of(stdout: str, stderr: str) -> str:
    """Return the section about a job's last output; '' if there was none."""
    sections = []
    for name, text in (("stdout", stdout), ("stderr", stderr)):
        if text:
            lines = "".join(f"  {line}\n" for line in text.removesuffix("\n").split("\n"))
            sections.append(f"its last output ({name}):\n{lines}")
    return "".join(sections)


def add_to(error: BaseException, stdout: str, stderr: str) -> None:
    """Add a job's last output to its error: before the remote traceback, or as the cause of an error without one."""
    section = text_of(stdout, stderr)
    if not section:
        return
    cause, where = error.__cause__, {}
    if isinstance(cause, RemoteTraceback):
        section, where = f"{section}{cause.args[0]}", cause.where
    elif cause is not None:
        return
    # (Plain assignment does not work for exception classes that forbid it, such as frozen dataclasses.)
    BaseException.__setattr__(error, "__cause__", RemoteTraceback(section, where))
