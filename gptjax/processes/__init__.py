"""Several processes, on one machine or on many, as one run. In reading order:

- ``schedulers``: which process of how many this is
- ``cluster``: what they start, agree on and end together
- ``watchdog``: who of them still lives
"""
