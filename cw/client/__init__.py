"""What a program gives jobs with, and gets their results from. The names of the original library are all here."""

from cw.client.executor import ClusterExecutor, SlurmExecutor
from cw.client.thread import ClientThread, randid
from cw.errors import RemoteException

__all__ = ["ClientThread", "ClusterExecutor", "RemoteException", "SlurmExecutor", "randid"]
