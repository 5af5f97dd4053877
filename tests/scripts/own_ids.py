"""A program in the original's later form: ids of its own, a cluster from the script, wait at the end."""

import cw.client
import cw.mp


def work(n):
    return n * n


def completion(jobid, output):
    print(f"the square for job {jobid - first} is {output}")


first = cw.randid()


def main():
    cw.mp.start(nworkers=2)
    client = cw.client.ClientThread(completion, "localhost", int(cw.mp.status().master.rpartition(":")[2]))
    client.start()
    for i in range(10):
        client.submit(first + i, work, i)
    client.wait()
    cw.mp.stop()


if __name__ == "__main__":
    main()
