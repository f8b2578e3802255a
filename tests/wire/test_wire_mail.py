"""Slurm's MailProg: every mail reaches the site's mailer, whatever fails on the way; that of a job's end says more."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "slurm" / "hooks" / "mail"
SUBJECT = "Slurm Job_id=4711 Name=$(x) `y` Ended, Run time 00:01:40, COMPLETED, ExitCode 0"
TEXT = "as Slurm wrote it\n"


class Post:
    """The script in a prefix of its own, with a mailer that puts what it got into a pipe."""

    def __init__(
        self, root: Path, perun: str | None = "echo 'Energy 8.0 kJ'", path: str = "", most_s: float = 30
    ) -> None:
        self.box = root / "box"
        os.mkfifo(self.box)
        mailer = root / "mailer"
        mailer.write_text(f"#!/bin/sh\n{{ printf '%s|' \"$@\"; cat; }} > {self.box}\n")
        mailer.chmod(0o755)
        self.script = root / "prefix" / "libexec" / "perun" / "mail"
        self.script.parent.mkdir(parents=True)
        text = SCRIPT.read_text().replace("/etc/perun/mailer", str(mailer)).replace('"8 15 30 60 60"', '"0 0 0"')
        text = text.replace("timeout -k 5 30", f"timeout -k 0.2 {most_s}")
        self.script.write_text(text.replace("PATH=/usr/sbin:/usr/bin:/sbin:/bin", f"PATH={path}") if path else text)
        self.script.chmod(0o755)
        self.seen = root / "seen"
        if perun is not None:
            program = root / "prefix" / "bin" / "perun"
            program.parent.mkdir()
            program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {self.seen}\n{perun}\n')
            program.chmod(0o755)

    def send(self, kind: str = "Ended", subject: str = SUBJECT) -> subprocess.CompletedProcess[str]:
        """Call it as slurmctld does; it returns at once where a mail waits."""
        words = [self.script, "-s", subject, "alice@here"]
        environ = {"SLURM_JOB_MAIL_TYPE": kind} if kind else {}
        return subprocess.run(words, input=TEXT, env=environ, capture_output=True, text=True, check=True)

    def received(self) -> str:
        """What the mailer got; waits for it."""
        return self.box.read_text()


HEAD = f"-s|{SUBJECT}|alice@here|"


def test_the_mail_of_a_jobs_end_says_what_it_used_below_what_slurm_wrote(tmp_path: Path) -> None:
    post = Post(tmp_path)
    assert post.send().stdout == ""
    assert post.received() == f"{HEAD}{TEXT}\nEnergy 8.0 kJ\n"
    assert post.seen.read_text() == f"report\n--mail\n{SUBJECT}\n"


@pytest.mark.parametrize("kind", ["Began", "Reached time limit", ""])
def test_other_mails_go_on_as_they_are(tmp_path: Path, kind: str) -> None:
    post = Post(tmp_path)
    words = [post.script, "-s", SUBJECT, "alice@here"]
    environ = {"SLURM_JOB_MAIL_TYPE": kind} if kind else {}
    with subprocess.Popen(words, stdin=subprocess.PIPE, env=environ, text=True) as sending:
        assert sending.stdin is not None
        sending.stdin.write(TEXT)
        sending.stdin.close()
        assert post.received() == HEAD + TEXT
    assert sending.returncode == 0
    assert not post.seen.exists()


@pytest.mark.parametrize(
    "perun", [None, "exit 1", "kill -9 $$", "exec sleep 100", "trap '' TERM; sleep 100; sleep 100"]
)
def test_a_mail_goes_out_whatever_becomes_of_perun(tmp_path: Path, perun: str | None) -> None:
    post = Post(tmp_path, perun, most_s=0.2 if perun is not None and "sleep" in perun else 30)
    post.send()
    assert post.received() == HEAD + TEXT


def test_a_record_on_its_way_is_asked_for_again_and_waited_for_so_long_at_most(tmp_path: Path) -> None:
    post = Post(tmp_path, 'echo "not yet, seen $(grep -c mail ' + str(tmp_path / "seen") + ') times"; exit 75')
    post.send()
    assert post.received() == f"{HEAD}{TEXT}\nnot yet, seen 3 times\n"


@pytest.mark.parametrize("missing", ["setsid", "flock", "timeout", "sleep"])
def test_a_mail_goes_out_where_a_tool_is_missing(tmp_path: Path, missing: str) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in {"sh", "cat", "setsid", "flock", "timeout", "sleep", "logger"} - {missing}:
        found = shutil.which(name)
        if found is not None:
            (tools / name).symlink_to(found)
    post = Post(tmp_path, path=str(tools))
    words = [post.script, "-s", SUBJECT, "alice@here"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, env={"SLURM_JOB_MAIL_TYPE": "Failed"}, text=True) as sending:
        assert sending.stdin is not None
        sending.stdin.write(TEXT)
        sending.stdin.close()
        assert post.received() == HEAD + TEXT


LATE = """#!/bin/sh
# What `setsid -f` is where the process that it forks comes late to its turn.
shift
exec 3<&0  # a background command's own would be /dev/null
{{ sleep 0.5; exec {setsid} "$@"; }} <&3 3<&- &
"""


@pytest.mark.timeout(60)  # what is lost would be waited for
def test_no_mail_is_lost_though_slurm_kills_the_group_of_its_mailprog_that_has_ended(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "flock", "timeout", "sleep", "logger"):
        (tools / name).symlink_to(str(shutil.which(name)))
    (tools / "setsid").write_text(LATE.format(setsid=shutil.which("setsid")))
    (tools / "setsid").chmod(0o755)
    post = Post(tmp_path, path=str(tools))
    words, environ = [post.script, "-s", SUBJECT, "alice@here"], {"SLURM_JOB_MAIL_TYPE": "Ended"}
    with subprocess.Popen(words, stdin=subprocess.PIPE, env=environ, text=True, process_group=0) as sending:
        sending.communicate(TEXT)
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(sending.pid, number)
    assert post.received() == f"{HEAD}{TEXT}\nEnergy 8.0 kJ\n"


def test_a_mail_that_waits_goes_out_when_the_controller_stops(tmp_path: Path) -> None:
    asks = tmp_path / "asks"
    os.mkfifo(asks)
    post = Post(tmp_path, f"echo $PPID > {asks}; exec sleep 100")
    text = post.script.read_text().replace("timeout -k 0.2 30", "exec")
    post.script.write_text(text.replace('flock -w 60 "$0" exec ', ""))  # perun is the script's own child
    post.send()
    script = int(asks.read_text())
    os.killpg(os.getpgid(script), signal.SIGTERM)  # as systemd does: all of them
    assert post.received() == HEAD + TEXT
