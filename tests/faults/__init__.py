"""The fault suite: jobs on a real cluster while something of perun's, or of the machine's, is broken.

    python -m tests.faults [NAME ...] [--jobs N] [--control] [--write]
    python -m tests.faults matrix [FAULT ...] [--write]

Half of the nodes is broken, jobs of every kind run there, normal jobs run beside on the other half. Afterwards the
fault is taken away, and nothing else: what recovers must do so by itself. The matrix runs programs instead, each with
and without `--perun`, while one of their two nodes is broken.
"""
