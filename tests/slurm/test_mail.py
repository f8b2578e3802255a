"""Slurm's own mail of a job's end, through MailProg to a stand-in for the site's mailer: the energy stands in it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from devcluster import Cluster, site
from tests.slurm.mixed import wait_for

pytestmark = pytest.mark.cluster
MAILER = '#!/bin/sh\ncat > "/shared/mail/$$.new"\nmv "/shared/mail/$$.new" "/shared/mail/$2"\n'


def test_the_mail_of_a_jobs_end_says_its_energy(cluster: Cluster) -> None:
    box = Path(cluster.shared) / "mail"
    box.mkdir()
    box.chmod(0o777)
    mailer = Path(cluster.etc_perun) / "mailer"
    mailer.write_text(MAILER)
    mailer.chmod(0o755)
    before = cluster.run(["cat", "/etc/slurm/admin.conf"], user="root", check=True).stdout
    admin = [*before.splitlines(), f"MailProg={site.PREFIX}/libexec/perun/mail"]
    cluster.configure(admin, site.PLUGSTACK)
    cluster.reconfigure()
    try:
        options = ["--mail-type=BEGIN,END", "--mail-user=alice", "-J", "posted", "--wrap", "sleep 2"]
        job = int(cluster.run(["sbatch", "--parsable", *options], user="alice", check=True).stdout)
        arrived = wait_for(lambda: {path.name: path.read_text() for path in box.glob(f"Slurm Job_id={job} *[!w]")}, 2)
        (began,) = (text for name, text in arrived.items() if "Began" in name)
        (ended,) = (text for name, text in arrived.items() if "Ended" in name)
        assert began == ""
        assert re.search(r"^Energy +\d.* J \+- .*\(k=2\).*simulated$", ended, re.MULTILINE), ended
        assert ended.isascii()
    finally:
        cluster.configure(before.splitlines(), site.PLUGSTACK)
        cluster.reconfigure()
        mailer.unlink()
        shutil.rmtree(box)
