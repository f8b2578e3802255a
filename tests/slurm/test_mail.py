"""Slurm's own mail of a job's end, through MailProg to a stand-in for the site's mailer: the energy stands in it."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest

from devcluster import Cluster, site

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
MAILER = '#!/bin/sh\ncat > "/shared/mail/$$.new"\nmv "/shared/mail/$$.new" "/shared/mail/$2"\n'


def test_the_mail_of_a_jobs_end_says_its_energy(cluster: Cluster) -> None:
    box = Path(cluster.shared) / "mail"
    box.mkdir()
    box.chmod(0o777)
    mailer = Path(cluster.etc_perun) / "mailer"
    mailer.write_text(MAILER)
    mailer.chmod(0o755)
    cluster.configure((*site.SLURM_CONF, f"MailProg={site.PREFIX}/libexec/perun/mail"))
    cluster.reconfigure()
    try:
        options = ["--mail-type=BEGIN,END", "--mail-user=alice", "-J", "posted", "--wrap", "sleep 2"]
        job = int(cluster.run(["sbatch", "--parsable", *options], user="alice", check=True).stdout)
        deadline = time.monotonic() + 420  # the mail waits for the record for three minutes, beside what it asks
        while len(names := sorted(one.name for one in box.glob("Slurm Job_id*"))) != 2:
            assert time.monotonic() < deadline, f"two mails of job {job}: {names}"
            time.sleep(0.2)
        (began,) = box.glob(f"Slurm Job_id={job} Name=posted Began*")
        (ended,) = (path.read_text() for path in box.glob(f"Slurm Job_id={job} Name=posted Ended*"))
        assert began.read_text() == ""
        assert re.search(r"^Energy +(at most )?\d.* J.*\(k=2\).*simulated$", ended, re.MULTILINE), ended
        assert ended.isascii()
    finally:
        cluster.configure(site.SLURM_CONF)
        cluster.reconfigure()
        mailer.unlink()
        shutil.rmtree(box)
