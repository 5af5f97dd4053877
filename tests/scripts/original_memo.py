"""A memoizer for the original library: it waits for single results on the client's condition, and looks for errors."""

import sys

import cw.client


class Memo:
    def __init__(self, host):
        self.known, self.jobs = {}, {}
        self.client = cw.client.ClientThread(self.completion, host)
        self.client.start()

    def completion(self, jobid, output):
        with self.client.jobs_cond:
            key = self.jobs.pop(jobid)
        self.known[key] = output

    def submit(self, func, *args):
        jobid = cw.randid()
        with self.client.jobs_cond:
            self.jobs[jobid] = func, args
        self.client.submit(jobid, func, *args)

    def get(self, func, *args):
        with self.client.jobs_cond:
            while (func, args) in self.jobs.values() and not self.client.remote_exception:
                self.client.jobs_cond.wait()
            error = self.client.remote_exception
            if error:
                self.client.remote_exception = None
                raise error
            return self.known[func, args]


def divide(dividend, divisor):
    return dividend / divisor


memo = Memo(sys.argv[1])
for number in range(1, 30):
    memo.submit(divide, 60, number)
print([memo.get(divide, 60, number) for number in (29, 1, 2, 3)])
memo.submit(divide, 60, 0)
try:
    memo.get(divide, 60, 0)
except cw.client.RemoteException as error:
    print(error.error.strip().splitlines()[-1])
memo.client.wait()
memo.client.stop()
