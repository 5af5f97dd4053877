"""Slurm's states of jobs and its reasons in words; and which reasons are final: the job can never start as it is.

A reason is final if it holds for the job even when nothing else is in the queue and all nodes are up. (Where nodes are
down, Slurm gives another: ReqNodeNotAvail, or a sentence about nodes that are DOWN.) Limits on what several jobs have
together (Grp, PerUser, PerAccount) are not: those end.
"""

from __future__ import annotations

import re

_STATES = {
    "PENDING": "waits in the queue", "RUNNING": "runs", "CONFIGURING": "its nodes are being made ready",
    "COMPLETING": "is ending", "SUSPENDED": "is suspended", "STOPPED": "is stopped", "REQUEUED": "was requeued",
    "REQUEUE_HOLD": "was requeued and is held", "SPECIAL_EXIT": "was requeued and is held",
    "COMPLETED": "has ended", "CANCELLED": "was cancelled", "FAILED": "has failed",
    "TIMEOUT": "ran into its time limit", "PREEMPTED": "was preempted by another job",
    "NODE_FAIL": "ended because a node failed", "OUT_OF_MEMORY": "ran out of memory (--mem-per-cpu gives more)",
    "BOOT_FAIL": "ended because a node did not boot", "DEADLINE": "ended at its deadline", "REVOKED": "was revoked",
}  # fmt: skip

_REASONS = {
    "Priority": "others are before it", "Resources": "no nodes are free for it", "Dependency": "it follows another job",
    "BeginTime": "its time to begin has not come", "JobHeldUser": "you hold it: scontrol release",
    "JobHeldAdmin": "an administrator holds it", "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive", "Licenses": "a licence is not free",
    "PartitionNodeLimit": "its partition never gives that many nodes: ask for fewer",
    "PartitionTimeLimit": "its partition never gives that much time: give a shorter --time",
    "PartitionConfig": "its partition never gives that: ask for less, or another --partition",
    "ReqNodeNotAvail": "nodes that it needs are not available", "NodeDown": "a node that it needs is down",
    "JobLaunchFailure": "Slurm could not start it: is the directory of its logs seen by the nodes?",
    "job requeued in held state": "Slurm holds it: see its log, then scontrol release",
    "launch failed requeued held": "Slurm could not start it, and holds it: see its log, then scontrol release",
    "InvalidAccount": "its account is not valid: give another --account",
    "InvalidQOS": "its QOS is not valid: give another --qos",
    "Nodes required for job are DOWN": "nodes that it needs are down, drained or reserved",
    "DependencyNeverSatisfied": "what it follows never ends as it should: stop, and start again",
    "user env retrieval failed requeued held": "Slurm could not start it, and holds it: scontrol release",
    "NonZeroExitCode": "its program failed: see its log", "OutOfMemory": "out of memory",
    "TimeLimit": "time limit", "Reservation": "its reservation has not begun",
    "BadConstraints": "no node is like that: ask for less, or give another --constraint",
    "AccountNotAllowed": "its partition does not take jobs of your account: give another --account or --partition",
    "QOSNotAllowed": "its account or partition does not take jobs of this QOS: give another --qos",
    "ReservationDeleted": "its reservation is no longer there: give another --reservation, or none",
    "MaxMemPerLimit": "its partition never gives that much memory: ask for less (--mem-per-cpu)",
}  # fmt: skip
_SAYS_ALL = frozenset(
    {
        "RUNNING",
        "COMPLETED",
        "CANCELLED",
        "COMPLETING",
        "TIMEOUT",
        "OUT_OF_MEMORY",
        "NODE_FAIL",
        "PREEMPTED",
        "DEADLINE",
    }
)
"""States that need no reason."""

_LIMITS = re.compile(r"(QOS|Assoc)\w*(Limit|Max|Grp)|^(MaxCpuPer|MaxMemPer|MaxJobs|MaxNodePer)")

_FINAL = frozenset(
    {"PartitionNodeLimit", "PartitionTimeLimit", "PartitionConfig", "BadConstraints", "InvalidAccount", "InvalidQOS",
     "AccountNotAllowed", "QOSNotAllowed", "DependencyNeverSatisfied", "ReservationDeleted", "MaxMemPerLimit",
     "QOSMinCpuNotSatisfied"}
)  # fmt: skip
"""Reasons that do not pass. (A job that is held, also after a failure, goes on when it is released.)"""

_FINAL_LIMITS = re.compile(
    r"(QOS|Assoc)Max\w*Per(Job|Node)(Limit)?|QOSMin(GRES|Memory|BB|Billing|Energy|License|Node)"
)
"""Limits on one job, by itself."""

_FINAL_SENTENCES = re.compile("Job's (account|QOS) not (known|permitted)")
"""Beginnings of the sentences that Slurm gives in place of AccountNotAllowed and QOSNotAllowed."""


def is_final(reason: str) -> bool:
    """True if a job that waits for this reason can never start, unless somebody changes the job or the limits."""
    return bool(reason in _FINAL or _FINAL_LIMITS.fullmatch(reason) or _FINAL_SENTENCES.match(reason))


def describe(state: str, reason: str, ident: str) -> str:
    """Describe the state of the job `ident`, and its reason, in words."""
    words = _STATES.get(state, f"is in the state {state}")
    if reason in ("", "None") or state in _SAYS_ALL:
        return words
    why = _REASONS.get(reason.partition(",")[0].strip("()"))
    if why is not None:
        why = why.replace("scontrol release", f"scontrol release {ident}")
    elif _FINAL_LIMITS.fullmatch(reason):
        why = (
            "a limit of your account or its QOS never allows such a job: ask for less, or give another --qos"
        )
    elif _FINAL_SENTENCES.match(reason):
        why = "its partition does not take jobs of your account or QOS: give another --account, --qos or --partition"
    elif _LIMITS.search(reason):
        why = "a limit of your account or its QOS is reached"
    return f"{words}: {why} ({reason})" if why else f"{words} ({reason})"
