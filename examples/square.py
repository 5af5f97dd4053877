"""The classic example: square ten numbers on the workers; a callback gets the results, with the ids of their jobs."""

import cw


def completion(jobid, output):
    """Print a result. Called in the client's thread for each job that has returned."""
    print(f"job {jobid} is done: the square is {output}")


def work(number):
    """Square a number on a worker. It need not be installed there: functions of a script travel with the call."""
    return number * number


def main():
    client = cw.client.ClientThread(completion)
    client.start()
    for number in range(10):
        jobid = cw.randid()  # or any int of your own that is not in use
        print(f"job {jobid} squares {number}")
        client.submit(jobid, work, number)
    client.wait()
    client.stop()


if __name__ == "__main__":
    # For a cluster that runs already, drop this line, and give the ClientThread host='HOST'.
    with cw.mp.allocate(2):
        main()
