"""A PostgreSQL server of one's own, on a Unix socket in a temporary directory, as a user that is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binaries() -> Path | None:
    """The newest server's programs, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    return found[-1].parent if found else None


def postmaster(url: str) -> int:
    """Pid of the server of a database's URL, whose processes are its children."""
    return int((Path(url.partition("host=")[2]) / "data/postmaster.pid").read_text().split("\n")[0])


@contextmanager
def server(fsync: bool = False) -> Iterator[str]:
    """Run a server, which syncs what it writes with `fsync`; yields the URL of an empty database."""
    programs = binaries()
    assert programs is not None
    root = Path(tempfile.mkdtemp(prefix="perun-pg-", dir="/tmp"))
    data, log = root / "data", root / "log"
    as_user: list[str] = []
    user = pwd.getpwuid(os.getuid()).pw_name
    if os.getuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(root, account.pw_uid, account.pw_gid)
        as_user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        user = "postgres"

    def run(name: str, *arguments: str) -> None:
        command = [*as_user, str(programs / name), *arguments]
        subprocess.run(command, check=True, cwd=root, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    try:
        run("initdb", "-D", str(data), "-A", "trust", "-U", user, "--no-sync", "-E", "UTF8", "--locale=C")
        options = f"-c listen_addresses='' -k {root} -c fsync={'on' if fsync else 'off'}"
        run("pg_ctl", "-D", str(data), "-l", str(log), "-w", "-o", options, "start")
        try:
            run("createdb", "-h", str(root), "-U", user, "perun")
            yield f"postgresql+psycopg://{user}@/perun?host={root}"
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(root, ignore_errors=True)
