"""A collector whose archive lies on a file system without access control lists, to be run in a mount namespace.

`python -m tests.without_lists DIRECTORY` mounts a ramfs there, lets the collector sweep as a service user, the owner
ask for a report as herself, and prints what each said as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from perun_hpc.archive.places import Archive
from perun_hpc.cli.main import main
from tests import fake_slurm
from tests.accounting_data import START_S, boundary, put_incoming

OWNER, NAME, SERVICE = 1, "daemon", 992
"""A user whom every host knows stands for the job's owner."""


def as_user(uid: int, *words: str) -> tuple[int, str]:
    """Exit code and output of a perun command of that user's."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        code = 99
        try:
            code = main(list(words))
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def scenario(base: Path) -> dict[str, object]:
    base.chmod(0o755)
    root = base / "archive"
    root.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "none", root], check=True)
    row = {
        **fake_slurm.ROW,
        "User": NAME,
        "UID": str(OWNER),
        "Submit": START_S - 5,
        "Start": START_S,
        "End": START_S + 100,
    }
    fake_slurm.install(base / "bin", [row])
    (base / "bin/sacct.log").touch()
    for path in (base / "bin", *(base / "bin").iterdir()):
        path.chmod(0o777)
    (base / "policy.yaml").write_text(
        f"store: {{archive: {root}}}\ncollect: {{ledger: 'sqlite:///{base}/ledger/db', deadline: 1 s}}\n"
    )
    (base / "ledger").mkdir(mode=0o700)
    os.environ |= {"PERUN_POLICY": str(base / "policy.yaml"), "PATH": f"{base}/bin:{os.environ['PATH']}"}
    for number in (4711, 4712, 4713):
        put_incoming(root, boundary(number, uid=OWNER, user=NAME))
    archive = Archive(root, "c")
    archive.base.chmod(0o711)
    for path in (base / "ledger", *[root, *root.rglob("*")]):
        os.chown(path, SERVICE, SERVICE)
    root.chmod(0o711)
    swept = as_user(SERVICE, "collect", "--once", "--cluster", "c")
    again = as_user(SERVICE, "collect", "--once", "--cluster", "c")
    jobs = sorted(path.name for path in archive.jobs.glob("*/*"))
    modes = sorted({oct(path.stat().st_mode & 0o7777) for path in archive.jobs.glob("*/*/*")})
    return {
        "swept": swept,
        "again": again,
        "jobs": jobs,
        "modes": modes,
        "owner": as_user(OWNER, "report", "4711", "--cluster", "c"),
        "service": as_user(SERVICE, "report", "4711", "--cluster", "c"),
    }


if __name__ == "__main__":
    print(json.dumps(scenario(Path(sys.argv[1]))))
