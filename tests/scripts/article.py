"""The program of the article that announced the original library, between what a reader would put around it.

The lines from `def my_callback` on are the article's own, word for word. The program ends right after the last.
"""

import time

import cw


def expensive_func(n):
    time.sleep(0.5)  # so that the main thread is through long before
    return n * n


arg = 12

# fmt: off

def my_callback(jobid, result):
    print(jobid, 'completed')
thread = cw.client.ClientThread(my_callback, host='master.local')
thread.start()
jobid = thread.submit(expensive_func, arg)
print(jobid, 'started')
