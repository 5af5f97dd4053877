"""Client of a cluster: submits jobs and gets their results. All names of the original library are here."""

from cw.client.executor import ClusterExecutor, SlurmExecutor
from cw.client.original import BaseClientThread, Client
from cw.client.thread import ClientThread, randid
from cw.errors import RemoteException

__all__ = ["BaseClientThread", "Client", "ClientThread", "ClusterExecutor", "RemoteException", "SlurmExecutor",
           "randid"]  # fmt: skip
