"""`--perun` on a real Slurm: every step behaves as the same step without it."""

from __future__ import annotations

import re
import subprocess
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from devcluster import Cluster

pytestmark = pytest.mark.cluster

BARE_LINE = "this step runs without measurement"


@dataclass(frozen=True)
class Outcome:
    """What a user sees of a command: lines of different tasks come in any order."""

    returncode: int
    stdout: list[str]
    stderr: list[str]


def outcome(done: subprocess.CompletedProcess[str]) -> Outcome:
    # slurmstepd signs with the node's name, from 26.05 on with the moment, where the launcher says its name alone:
    # "slurmstepd-n1: error: ...", "[2026-11-30T14:05:59.878] error: ...".
    moment = r"\[\d{4}-\d\d-\d\dT[\d:.]+\](?= error:)"
    errors = re.sub(rf"^(slurmstepd-n\d:|{moment})", "slurmstepd:", done.stderr, flags=re.M)
    noise = re.compile(r"(\d+: )?perun: |srun: job \d+ (queued and|has been) ")
    lines = [line for line in errors.splitlines() if not noise.match(line)]
    steps = [re.sub(r"\b\d+\.\d+(?=:)", "STEP", re.sub(r"StepId=\d+\.\d+|[Jj]ob \d+", "JOB", line)) for line in lines]
    times = [re.sub(r"\d{4}-\d\d-\d\dT[\d:]+", "TIME", line) for line in steps]
    return Outcome(done.returncode, sorted(done.stdout.splitlines()), sorted(times))


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Cluster:
    """The cluster with a few commands that are hard to run."""
    script = r"""
        set -eu
        mkdir -p sub d1/tool d2
        for name in x sub/x .hidden d2/tool; do
            printf '#!/bin/sh\necho "$0 $*"\n' > $name
            chmod 755 $name
        done
        printf '#!/no/such/interpreter -x\n' > broken
        printf 'echo no interpreter\n' > text
        chmod 755 broken text
        printf 'echo not executable\n' > d1/plain
        cat > multi.conf <<'END'
        # three kinds
        0 sh -c 'echo "$0" "%t" %o $SLURM_PROCID' a\ b
        1-2 /bin/echo task:%t offset:%o "two  blanks" \
            continued
        * ./x last
        END
        sed -i 's/^        //' multi.conf
        printf '0 sh -c "exit 3"\n1 sh -c "kill -TERM $$"\n' > failing.conf
        printf '0 /no/such\n1 true\n' > missing.conf
        printf '#!/bin/sh\necho "export FROM_PROLOG=yes"\necho "print from the prolog"\n' > task-prolog
        chmod 755 task-prolog
    """
    cluster.run(["sh", "-c", f"mkdir -p flag && cd flag && {textwrap.dedent(script)}"], check=True)
    return cluster


@dataclass(frozen=True)
class Allocation:
    """n1 and n2 in one job, so that a step costs no job."""

    site: Cluster
    job: str

    def srun(self, *words: str, perun: str = "", **options: str) -> subprocess.CompletedProcess[str]:
        """Run a step, by default on n1."""
        flag = [perun] if perun else []
        where = [] if "-w" in words else ["-w", "n1", "-N1"]
        line = ["/usr/bin/srun", f"--jobid={self.job}", "--overlap", *flag, *where, *words]
        return self.site.run(line, cwd="/home/alice/flag", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def steps(site: Cluster) -> Iterator[Allocation]:
    """A job on n1 and n2 that only holds them."""
    done = site.run(["salloc", "--no-shell", "-w", "n1,n2", "--exclusive"], check=True)
    found = re.search(r"Granted job allocation (\d+)", done.stderr)
    assert found, done.stderr
    yield Allocation(site, found[1])
    site.run(["scancel", found[1]], check=True)
    site.wait_job(found[1])


SIGNALS = "s|^(SigQ:).*/|\\1|p; /^(Sig[^Q]|Shd|Umask|Seccomp|NoNewPrivs)/p"
"""All of it, but how many signals wait for processes of this user on the whole machine, other clusters' as well."""

CASES = [
    pytest.param(["true"], id="true"),
    pytest.param(["sh", "-c", "exit 7"], id="exit code"),
    pytest.param(["sh", "-c", "kill -TERM $$"], id="killed by TERM"),
    pytest.param(["sh", "-c", "kill -SEGV $$"], id="killed by SEGV"),
    pytest.param(["-n4", "sh", "-c", "exit $SLURM_PROCID"], id="different exit codes"),
    pytest.param(["-w", "n1,n2", "-n4", "-l", "sh", "-c", "echo $SLURM_PROCID"], id="two nodes, labelled"),
    pytest.param(["printf", "%s|", "a b", "", "'", '"', "\\", "$HOME", "`x`", "*", "é\n", "--", "-n"], id="quoting"),
    pytest.param(["sh", "-c", 'echo "$0"; tr "\\0" " " < /proc/$$/cmdline'], id="argv[0]"),
    pytest.param(["sh", "-c", "cat /proc/$$/comm"], id="name"),
    pytest.param(["sed", "-nE", SIGNALS, "/proc/self/status"], id="signals"),
    pytest.param(["sh", "-c", "ulimit -a"], id="limits"),
    pytest.param(["sh", "-c", "ls /proc/self/fd; pwd; id"], id="descriptors"),
    pytest.param(["-n3", "cat"], id="stdin to all"),
    pytest.param(["--input=0", "-n2", "cat"], id="stdin to one"),
    pytest.param(["--input=none", "cat"], id="no stdin"),
    # Slurm 22.05 loses what a step with -u says last, where it ends at once: without perun as well
    pytest.param(["-u", "sh", "-c", "echo out; echo err >&2; sleep 0.2"], id="unbuffered"),
    pytest.param(["--export=NONE", "/usr/bin/printenv", "HOME"], id="export none"),
    pytest.param(["--export=NONE,A=b", "/bin/sh", "-c", "echo $A"], id="export one"),
    pytest.param(["--task-prolog=/home/alice/flag/task-prolog", "sh", "-c", "echo $FROM_PROLOG"], id="task prolog"),
    pytest.param(["--kill-on-bad-exit", "-n2", "sh", "-c", "exit 1"], id="kill on bad exit"),
    pytest.param(["--chdir=/tmp", "pwd"], id="chdir"),
    pytest.param(["./x", "1"], id="dot"),
    pytest.param([".hidden"], id="hidden"),
    pytest.param(["sub/x"], id="directory"),
    pytest.param(["x"], id="in the working directory"),
    pytest.param(["no-such-command"], id="missing"),
    pytest.param(["/no/such/command"], id="missing path"),
    pytest.param(["-w", "n1,n2", "-n2", "no-such-command"], id="missing on two nodes"),
    pytest.param(["/tmp"], id="directory as command"),
    pytest.param(["/etc/passwd"], id="not executable"),
    pytest.param(["broken"], id="bad interpreter"),
    pytest.param(["./text"], id="bad format"),
    pytest.param(["-n5", "--multi-prog", "multi.conf"], id="multi-prog"),
    pytest.param(["-n2", "--multi-prog", "failing.conf"], id="multi-prog failing"),
    pytest.param(["-n2", "--multi-prog", "no-such.conf"], id="multi-prog missing"),
]


@pytest.mark.parametrize("words", CASES)
def test_a_step_behaves_as_without_the_flag(steps: Allocation, words: list[str]) -> None:
    for _ in range(3):  # Slurm 22.05 itself loses a message of its own now and then on a busy machine
        plain = outcome(steps.srun(*words, input="one\ntwo\n"))
        flagged = outcome(steps.srun(*words, input="one\ntwo\n", perun="--perun"))
        if flagged == plain:
            break
    assert flagged == plain


@pytest.mark.parametrize(
    ("path", "command"), [("d1:d2", "tool"), ("d1:d2", "plain"), ("", "x"), (":/home/alice/flag", "x"), ("d2/", "tool")]
)
def test_commands_are_found_as_without_the_flag(steps: Allocation, path: str, command: str) -> None:
    env = {"PATH": f"{path}:/usr/bin:/bin"}
    plain = outcome(steps.srun(command, env=env))  # type: ignore[arg-type]
    assert outcome(steps.srun(command, env=env, perun="--perun")) == plain  # type: ignore[arg-type]


def test_a_terminal_is_one_as_without_the_flag(steps: Allocation) -> None:
    show = "tty | sed s/[0-9]*$//; stty size; read line; echo got $line; exit 4"
    seen = []
    for flag in ("", "--perun"):
        line = f"srun --jobid={steps.job} --overlap {flag} -w n1 -N1 --pty sh -c '{show}'"
        done = steps.site.run(["script", "-qec", line, "/dev/null"], cwd="/home/alice/flag", input="hello\n")
        text = [part for part in done.stdout.replace("\r", "").splitlines() if not part.startswith("perun: ")]
        # Whether the outer terminal echoes the line too depends on when srun makes it raw: each line counts once.
        seen.append((done.returncode, sorted(set(text))))
    assert seen[0] == seen[1]
    assert seen[0][0] == 4
    assert "got hello" in seen[0][1]


def test_a_signal_reaches_the_command(site: Cluster) -> None:
    script = 'trap "echo caught; exit 5" USR1; echo $SLURM_JOB_ID; while :; do sleep 0.05; done'
    for flag in ([], ["--perun"]):
        line = ["srun", "-u", *flag, "-w", "n3", "sh", "-c", script]
        step = site.popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        job = step.stdout.readline().strip()
        site.run(["scancel", "-s", "USR1", f"{job}.0"], check=True)
        assert step.stdout.read() == "caught\n"
        assert step.wait(30) == 5


def environment(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


#: Differ from step to step, with or without us.
PER_STEP = re.compile(
    r"SLURM_(JOB_?ID|STEP_?ID|STEP_LAUNCHER_PORT|SRUN_COMM_PORT|TASK_PID|LAUNCH_NODE_PORT|JOB_(START|END)_TIME)|PMI_JOBID|TMPDIR|_"
)


@pytest.fixture(scope="module")
def measured(steps: Allocation) -> dict[str, str]:
    """The environment of a measured step."""
    return environment(steps.srun("env", perun="--perun=period=1s").stdout)


def test_a_measured_step_gets_the_launcher_and_nothing_else(steps: Allocation, measured: dict[str, str]) -> None:
    plain = environment(steps.srun("env").stdout)
    added = {name for name in measured if name not in plain}
    kept = {name: value for name, value in measured.items() if name in plain and not PER_STEP.fullmatch(name)}
    assert kept == {name: value for name, value in plain.items() if not PER_STEP.fullmatch(name)}
    assert {name for name in added if not name.startswith("PERUN_")} <= {
        "PYTHONPATH",
        "SLURM_SPANK__SLURM_SPANK_OPTION_perun_perun",
    }
    assert measured["PYTHONPATH"].endswith("/perun_hpc/inject/path")
    assert (measured["PERUN_RANK"], measured["PERUN_NTASKS"], measured["PERUN_OPTIONS"]) == ("0", "1", "period=1s")
    assert "PERUN_ARGV0" not in measured


def test_an_option_that_does_not_count_is_named_and_harms_nothing(steps: Allocation) -> None:
    done = steps.srun("echo", "done", perun="--perun=nonsense")
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr == "perun: --perun: the site does not allow the option 'nonsense': ignored\n"


@pytest.fixture
def switched_off(steps: Allocation) -> Iterator[Allocation]:
    switch = steps.site.etc_perun / "disable"
    switch.touch()
    yield steps
    switch.unlink()


def test_under_the_kill_switch_the_environment_is_untouched(switched_off: Allocation) -> None:
    done = switched_off.srun("env", perun="--perun")
    assert done.stderr == ""
    assert not [name for name in environment(done.stdout) if name.startswith("PERUN_")]
    done = switched_off.srun("-n5", "--multi-prog", "multi.conf", perun="--perun")
    assert outcome(done) == outcome(switched_off.srun("-n5", "--multi-prog", "multi.conf"))


SHOW_RANK = "echo rank ${PERUN_RANK-none} options ${PERUN_OPTIONS-none}"


def ranks(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("rank ")]


def test_every_rank_of_a_multi_prog_step_is_measured(steps: Allocation) -> None:
    show = SHOW_RANK.replace("rank ", "rank $SLURM_PROCID is ", 1)
    text = f"0 sh -c '{show}'\n* sh -c '{show}'\n"
    steps.site.run(["sh", "-c", "cat > flag/show.conf"], input=text, check=True)
    done = steps.srun("-n3", "--multi-prog", "show.conf", perun="--perun=a=b")
    assert sorted(ranks(done.stdout)) == [f"rank {n} is {n} options a=b" for n in range(3)]


def batch(site: Cluster, *options: str, lines: Sequence[str], header: str = "") -> str:
    """Run a batch script on n3 to its end; returns its output."""
    script = "\n".join(["#!/bin/bash", "#SBATCH -w n3", header, *lines, ""])
    submitted = site.run(
        ["sbatch", "--parsable", "-o", "/home/alice/flag/%j.out", *options],
        input=script,
        cwd="/home/alice/flag",
        check=True,
    )
    job = submitted.stdout.strip()
    site.wait_job(job)
    deadline = time.monotonic() + 30
    while True:
        text = site.run(["cat", f"/home/alice/flag/{job}.out"]).stdout
        if "the end\n" in text:
            return text
        assert time.monotonic() < deadline, f"job {job} did not write its end"
        time.sleep(0.1)


LINES = [
    f"sh -c 'echo batch ${{PERUN_RANK-none}}; {SHOW_RANK.replace('rank', 'script')}'",
    f"srun sh -c '{SHOW_RANK}'",
    f"srun --perun=own=1 sh -c '{SHOW_RANK}'",
    f"srun --perun=off sh -c '{SHOW_RANK}'",
    "echo the end",
]


@pytest.mark.parametrize(
    ("options", "header", "inherited"),
    [
        pytest.param(["--perun=of=batch"], "", "rank 0 options of=batch", id="sbatch"),
        pytest.param(["--perun"], "", "rank 0 options", id="sbatch without a value"),
        pytest.param([], "#SBATCH --perun=of=script", "rank 0 options of=script", id="in the script"),
        pytest.param([], "", "rank none options none", id="none"),
    ],
)
def test_steps_of_a_flagged_batch_job_are_flagged(
    site: Cluster, options: list[str], header: str, inherited: str
) -> None:
    text = batch(site, *options, lines=LINES, header=header)
    assert "batch none\n" in text  # the script itself is no step
    assert ranks(text) == [inherited, "rank 0 options own=1", "rank none options none"]


def test_steps_of_a_flagged_allocation_are_flagged(site: Cluster) -> None:
    done = site.run(["salloc", "-w", "n3", "--perun=of=alloc", "srun", "sh", "-c", SHOW_RANK])
    assert ranks(done.stdout) == ["rank 0 options of=alloc"]


def test_the_components_of_a_het_job_are_measured(site: Cluster) -> None:
    command = ["srun", "--perun", "--het-group=0,1", "sh", "-c", f"{SHOW_RANK} of $PERUN_NTASKS"]
    done = site.run(["salloc", "-w", "n3", ":", "-w", "n4", *command])
    assert sorted(ranks(done.stdout)) == ["rank 0 options of 2", "rank 1 options of 2"]
    assert BARE_LINE not in done.stderr


def test_the_help_names_the_flag(site: Cluster) -> None:
    for command in ("srun", "sbatch", "salloc"):
        assert "--perun" in site.run([command, "--help"]).stdout
