"""Two hundred mixed jobs on a cluster, then the audit: `python -m tests.soak ledger`, or with another number of rounds
`python -m tests.soak.ledger ROUNDS`.

Collector and slurmdbd are killed meanwhile. Every run that Slurm knows must have one record, with Slurm's state and its
line in slurmdbd, and of all jobs whose records say that nothing is missing the ledger must close to the microjoule. Now
and then slurmd runs no Prolog for a requeued job that comes back to the same node: then its record says so.
"""

from __future__ import annotations

import sys
from collections import Counter

from devcluster import Cluster, site
from tests.slurm.mixed import audit_of, records, reported, settle, submit_mixed, without_line, wrong_counts

ROUNDS = 20
SEED = 200


def main(arguments: list[str]) -> int:
    """Run it and print a row of the table; 1 if something does not close."""
    rounds = int(arguments[0]) if arguments else ROUNDS
    cluster = Cluster("soak-ledger")
    cluster.up()
    try:
        site.install(cluster)
        return _check(cluster, rounds)
    finally:
        cluster.down()


def _check(cluster: Cluster, rounds: int) -> int:
    done = submit_mixed(cluster, rounds, SEED)
    rows = settle(cluster, done.leaders, timeout=900)
    jobs = {int(row["JobIDRaw"]) for row in rows}
    have = records(cluster)
    wrong = wrong_counts(cluster, done.leaders, rows)
    whole = [job for job in jobs if all(record["status"] == "complete" for record in have[job])]
    unreported = sum(record["status"] == "missing" for job in jobs for record in have[job])
    audit, about = audit_of(cluster, whole)
    lacking = without_line(cluster, reported(jobs, have), timeout=300)
    faults = [f"{len(wrong)} jobs with a wrong number of records {wrong}" if wrong else ""]
    faults += [f"{len(about)} findings of the audit {about[:3]}" if about else ""]
    faults += [f"{len(lacking)} jobs without their line in slurmdbd {lacking}" if lacking else ""]
    checked = "one record each with its state and its line in slurmdbd; the audit of "
    checked += (
        f"{len(whole)} complete jobs; {len(jobs) - len(whole)} jobs partial, with {unreported} runs that no node "
    )
    checked += "reported, as their records say"
    found = "; ".join(fault for fault in faults if fault)
    states = Counter(row["State"].split()[0].lower() for row in rows)
    kinds = ", ".join(f"{number} {state}" for state, number in states.most_common())
    print(
        f"| ledger: mixed jobs, collector killed {done.collector_kills} and slurmdbd {done.slurmdbd_kills} times "
        f"| {len(jobs)} jobs, {len(rows)} runs: {kinds} "
        f"| {checked}, in {len(audit['accounts'])} accounts of nodes and domains | {found or 'all close'} |",
        flush=True,
    )
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
