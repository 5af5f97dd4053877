"""The processes of runners: forked, bound, given jobs, guarded and ended."""
