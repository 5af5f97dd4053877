"""`python -m benchmarks.far_worker HOST:PORT`: a worker that does not see that its master is on this machine."""

from __future__ import annotations

import runpy


def look_away() -> None:
    """Make this process connect to masters on its own machine as if they were on another."""
    from cw.net import connector

    connector.connect_locally = lambda port, fingerprint: None


if __name__ == "__main__":
    look_away()
    runpy.run_module("cw.worker", run_name="__main__")
