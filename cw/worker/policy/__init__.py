"""The worker's policy: state machines that decide which runner gets what. No I/O, time as an argument."""
