"""A program for the original library with a bluelet loop of its own, and one with its plainest thread."""

import sys
import threading

import bluelet

import cw.client

host = sys.argv[1]
results = {}


def divide(dividend, divisor):
    return dividend / divisor


def callback(jobid, success, result):
    results[jobid] = result if success else result.strip().splitlines()[-1]


class Told(cw.client.Client):
    def connection_ready(self):
        print("connected to", self.host)


def main():
    client = Told(host)
    handler = client.handle_results(callback)
    yield bluelet.spawn(handler)
    yield bluelet.null()
    for divisor in range(3):
        yield client.send_job(divisor, divide, 6, divisor=divisor)
    while len(results) < 3:
        yield bluelet.sleep(0.01)
    yield bluelet.kill(handler)


bluelet.run(main())
print(sorted(results.items()))

results.clear()
is_done = threading.Event()
thread = cw.client.BaseClientThread(lambda *result: (callback(*result), is_done.set()), host)
thread.start()
thread.start_job("a thread's", divide, 6, 4)
is_done.wait()
thread.stop()
thread.join()
print(results)
