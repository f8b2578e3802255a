"""How each daemon is started inside its host, and how one asks whether it does its work."""

from __future__ import annotations

from typing import NamedTuple

DATABASE_SOCKET = "/run/mysqld/mysqld.sock"
CONTROLLERS = ("munged", "mariadbd", "slurmdbd", "slurmctld")
"""The controller's daemons in the order of their start."""
GRANT = (
    "CREATE USER IF NOT EXISTS slurm@localhost; CREATE DATABASE IF NOT EXISTS slurm_acct; "
    "GRANT ALL ON slurm_acct.* TO slurm@localhost;"
)


class Daemon(NamedTuple):
    """One daemon: its command line (it goes to the background by itself), its user, and a command to ask it.

    It does its work when the command ``question`` succeeds and prints ``answer``.
    """

    start: list[str]
    user: str
    question: list[str]
    answer: str = ""


def daemon(name: str) -> Daemon:
    """Describe a daemon."""
    client = ["--no-defaults", f"--socket={DATABASE_SOCKET}", "-u", "root"]
    table = {
        "munged": Daemon(
            [
                *("munged", "--key-file=/etc/munge/munge.key", "--socket=/run/munge/munge.socket.2", "--force"),
                "--origin=127.0.0.1",  # one for all hosts: it vouches for none of their addresses
                *("--pid-file=/run/munge/munged.pid", "--log-file=/var/log/munge/munged.log", "--num-threads=4"),
                "--seed-file=/var/lib/munge/munge.seed",
            ],
            "munge",
            ["munge", "-n"],
            "MUNGE:",
        ),
        "mariadbd": Daemon(
            ["setsid", "-f", "sh", "-c", 'exec "$@" >/dev/null 2>&1 </dev/null', "sh", *MARIADB],
            "root",
            ["mariadb-admin", *client, "ping"],
            "is alive",
        ),
        "slurmdbd": Daemon(["slurmdbd"], "slurm", ["sacctmgr", "-n", "show", "cluster"]),
        "slurmctld": Daemon(["slurmctld"], "root", ["scontrol", "ping"], "is UP"),
        "slurmd": Daemon(["slurmd"], "root", ["pgrep", "-x", "slurmd"]),
    }
    if name not in table:
        raise ValueError(f"no daemon {name}: {' '.join(table)}")
    return table[name]


MARIADB = [
    "mariadbd",
    "--no-defaults",
    "--user=mysql",
    "--datadir=/var/lib/mysql",
    f"--socket={DATABASE_SOCKET}",
    "--pid-file=/run/mysqld/mysqld.pid",
    "--log-error=/var/log/mysql/error.log",
    "--skip-networking",
    "--skip-log-bin",
    "--innodb-buffer-pool-size=64M",
    "--innodb-log-file-size=16M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--innodb-lock-wait-timeout=900",
    "--innodb-fast-shutdown=2",
    "--loose-innodb-snapshot-isolation=OFF",  # on in MariaDB 11.8; loose: older ones do not know it
]
"""A small database, without network, that waits for no disk; slurmdbd can end by a conflict of snapshots."""

INSTALL_DATABASE = [
    *("mariadb-install-db", "--no-defaults", "--user=mysql", "--datadir=/var/lib/mysql"),
    *("--auth-root-authentication-method=normal", "--skip-name-resolve", "--skip-test-db"),
    *("--innodb-flush-method=nosync", "--innodb-log-file-size=16M", "--innodb-buffer-pool-size=32M"),
]
PREPARE_DATABASE = ["mariadb", "--no-defaults", f"--socket={DATABASE_SOCKET}", "-u", "root", "-e", GRANT]
