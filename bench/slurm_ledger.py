"""The peer of the ledger's questions: the same jobs in Slurm's own accounting, slurmdbd over MariaDB.

The rows go into slurmdbd's tables by SQL, since no cluster runs a million jobs for a benchmark; they have no steps and
no AdminComment, which is less than a site's have. Sums per month, of which `sreport` makes its tables, are filled in as
slurmdbd's roll-up would have left them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from devcluster import Cluster
from devcluster.daemons import DATABASE_SOCKET

USERS, ACCOUNTS = 200, 40
NAME = "bench-ledger"
TIMER = """
import subprocess, sys, time
begin = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - begin)
"""
CPU_TIMER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""
_BUFFER_POOL_B = 512 << 20
_ENERGY, _CPU = 3, 1
"""Slurm's numbers of trackable resources."""
_JOBS = f"""
SET unique_checks = 0, foreign_key_checks = 0;
INSERT INTO `{NAME}_job_table`
    (mod_time, account, cpus_req, job_name, id_assoc, id_job, id_qos, id_resv, id_wckey, id_user, id_group, het_job_id,
     het_job_offset, state_reason_prev, nodelist, nodes_alloc, node_inx, `partition`, priority, state, timelimit,
     time_submit, time_eligible, time_start, time_end, tres_alloc, tres_req)
SELECT e, a.acct, 8, 'stencil', a.id_assoc, s.seq, 1, 0, 0, 100000 + s.u, 100000 + s.u, 0, 4294967294, 0, 'n[1-2]', 2,
     '0-1', 'main', 1, 3, 10, e - 700, e - 700, e - 600, e,
     CONCAT('1=8,2=8000,{_ENERGY}=', 1000 + s.seq * 7919 MOD 999000, ',4=2,5=8'), '1=8,2=8000,4=2,5=8'
FROM (SELECT seq, seq * 7919 MOD {USERS} AS u, {{first}} + seq * {{span}} DIV ({{records}} + 1) AS e
      FROM seq_{{begin}}_to_{{end}}) s
JOIN `{NAME}_assoc_table` a ON a.user = CONCAT('user', LPAD(s.u, 3, '0'))
"""
_MONTHS = f"""
INSERT INTO `{NAME}_assoc_usage_month_table` (creation_time, mod_time, id, id_tres, time_start, alloc_secs)
SELECT 0, 0, a.id_assoc, t.id, {{start}}, 1000000 FROM `{NAME}_assoc_table` a
JOIN (SELECT {_CPU} AS id UNION SELECT {_ENERGY}) t WHERE a.user LIKE 'user%';
INSERT INTO `{NAME}_usage_month_table` (creation_time, mod_time, id_tres, time_start, count, alloc_secs)
SELECT 0, 0, t.id, {{start}}, 8, 1000000 FROM (SELECT {_CPU} AS id UNION SELECT {_ENERGY}) t
"""
STEP = 100_000


def missing() -> str:
    """Why the peer cannot run here; empty where it can."""
    if os.geteuid() != 0:
        return "the cluster needs root"
    return "" if shutil.which("slurmdbd") and shutil.which("mariadbd") else "slurmdbd or MariaDB is not installed"


@contextmanager
def filled(records: int, first: datetime, days: int) -> Iterator[Cluster]:
    """A cluster whose accounting holds `records` jobs, the last of which ended `days` after `first`."""
    cluster = Cluster(NAME, nodes=1)
    cluster.up()
    try:
        sql(cluster, f"SET GLOBAL innodb_buffer_pool_size = {_BUFFER_POOL_B}")
        for number in range(ACCOUNTS):
            account = f"account{number:02d}"
            users = ",".join(f"user{user:03d}" for user in range(number, USERS, ACCOUNTS))
            cluster.run(["sacctmgr", "-i", "add", "account", account], user="root", check=True)
            cluster.run(["sacctmgr", "-i", "add", "user", users, f"account={account}"], user="root", check=True)
        first_s, span_s = int(first.timestamp()), days * 86400
        for begin in range(1, records + 1, STEP):
            end = min(begin + STEP - 1, records)
            sql(cluster, _JOBS.format(first=first_s, span=span_s, records=records, begin=begin, end=end))
        start = first.replace(day=1)
        while start < first + timedelta(days=days):
            sql(cluster, _MONTHS.format(start=int(start.timestamp())))
            start = (start + timedelta(days=32)).replace(day=1)
        sql(cluster, f"ANALYZE TABLE `{NAME}_job_table`")
        yield cluster
    finally:
        cluster.down()


def ask_s(cluster: Cluster, command: Sequence[str], timer: str = TIMER) -> float:
    """Seconds that a command takes on the cluster's login node: of a clock, or with `CPU_TIMER` of CPU time."""
    done = cluster.run(["python3", "-c", timer, *command], user="root", timeout=600, check=True)
    return float(done.stdout)


def count(cluster: Cluster, command: Sequence[str]) -> int:
    """How many lines a command prints there."""
    return len(cluster.run(command, user="root", timeout=600, check=True).stdout.splitlines())


def sql(cluster: Cluster, statements: str) -> None:
    """Change what slurmdbd holds."""
    client = ["mariadb", "--no-defaults", f"--socket={DATABASE_SOCKET}", "-u", "root", "slurm_acct"]
    cluster.run(client, user="root", cwd="/", timeout=1800, input=statements, check=True)
