"""Slurm's states and reasons in words, and the reasons for which a job waits for ever."""

import pytest

from cw.slurm import reasons, squeue


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        ("PENDING", "Resources", "waits in the queue: no nodes are free for it (Resources)"),
        (
            "PENDING",
            "QOSMaxJobsPerUserLimit",
            "waits in the queue: a limit of your account or its QOS is reached",
        ),
        ("PENDING", "AssocGrpCpuLimit", "a limit of your account"),
        ("PENDING", "JobHeldUser", "you hold it"),
        ("PENDING", "PartitionTimeLimit", "give a shorter --time"),
        ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n1", "nodes that it needs are not available"),
        ("PENDING", "SomethingNew", "waits in the queue (SomethingNew)"),
        ("REQUEUE_HOLD", "None", "was requeued and is held"),
        ("OUT_OF_MEMORY", "OutOfMemory", "ran out of memory (--mem-per-cpu gives more)"),
        ("NODE_FAIL", "None", "ended because a node failed"),
        ("TIMEOUT", "TimeLimit", "ran into its time limit"),
        ("FAILED", "JobLaunchFailure", "has failed: Slurm could not start it"),
        ("NOVEL", "None", "is in the state NOVEL"),
    ],
)
def test_states_and_reasons_are_told_in_words(state, reason, words):
    assert words in reasons.describe(state, reason, "1")


@pytest.mark.parametrize(
    "reason",
    ["PartitionNodeLimit", "PartitionTimeLimit", "PartitionConfig", "BadConstraints", "InvalidAccount", "InvalidQOS",
     "QOSMaxCpuPerJobLimit", "QOSMaxWallDurationPerJobLimit", "QOSMaxMemoryPerNode", "QOSMaxCpuMinutesPerJobLimit",
     "AssocMaxNodePerJobLimit", "AssocMaxGRESPerNode", "AssocMaxWallDurationPerJobLimit", "QOSMinGRES",
     "Job's account not known, so it can't use this partition (acc allows gold)",
     "Job's QOS not permitted to use this partition (p allows a not b)"],
)  # fmt: skip
def test_what_no_other_jobs_end_can_change_is_final(reason):
    assert reasons.is_final(reason)
    row = squeue.Row(1, "PENDING", reason, 0, 0, "", "cw-x")
    assert row.can_never_start and not row._replace(state="RUNNING").can_never_start
    assert "never" in row.describe() or "give another" in row.describe()


@pytest.mark.parametrize(
    "reason",
    ["None", "", "Resources", "Priority", "Dependency", "ReqNodeNotAvail, UnavailableNodes:n2", "JobHeldUser",
     "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", "PartitionDown",
     "QOSMaxJobsPerUserLimit", "QOSMaxCpuPerUserLimit", "QOSMaxSubmitJobPerUserLimit", "AssocMaxJobsLimit",
     "AssocGrpCpuLimit", "QOSGrpNodeLimit", "MaxGRESPerAccount", "Reservation", "launch failed requeued held"],
)  # fmt: skip
def test_what_may_pass_is_not_final(reason):
    assert not reasons.is_final(reason)
