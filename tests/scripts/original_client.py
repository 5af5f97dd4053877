"""A client for the original library, in a program that starts no cluster; its master's host may be given."""

import sys

import cw.client

results = {}
client = cw.client.ClientThread(results.__setitem__, *sys.argv[1:])
client.start()
for number in range(5):
    client.submit(f"square of {number}", pow, number, 2)
client.wait()
print(results)
