"""`cw.Pool`: the interface of `multiprocessing.Pool`; the calls run on the cluster."""

from cw.pool.pool import Pool as Pool
