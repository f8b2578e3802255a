"""Every picture of the documents, from jobs on a demo cluster: `make screens`, 45 minutes, most of them waiting.

Nodes learn their static power in half an hour of idleness, which is why it takes that long; the cluster is one of its
own, so that `make demo` may run beside it: `screens`, or what PERUN_SCREENS_CLUSTER names, so that two checkouts may
take pictures at once. Its parts: `python -m demo.screens begin`, `learn`, `shoot` (as often as wanted), `down`.
Terminals are drawn by rich, pages by a headless Chromium.
"""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.__main__ import HERE, PERUN, USER, Screen, _copy_programs, directory
from devcluster import Cluster, site
from perun_hpc.agent.measure import learning
from perun_hpc.archive.places import RECORD
from perun_hpc.energy.static import StaticPower

PICTURES = HERE.parent / "docs" / "screens"
LEARNING_S = 50 * 60
NODES = ("n1", "n2", "n3", "n4")
COLUMNS, WIDEST = 80, 110
"""What commands are given, and where the terminal of a picture folds what is longer all the same."""


@dataclass(frozen=True)
class Shot:
    """One terminal: the picture's name, what was typed, by whom; `{phases}` and so on are the jobs' ids."""

    name: str
    line: str
    user: str = USER
    rows: int | None = None
    node: str | None = None


JOBS = {
    "plain": "sbatch --parsable batch.sh",
    "phases": "sbatch --parsable -J heat -N1 -n4 --exclusive -t 10 -o heat.out "
    f"--wrap 'srun --perun {site.SCIENCE}/bin/python phases.py 3 18'",
    "again": "sbatch --parsable -J heat -N1 -n4 --exclusive -t 10 -o heat.out "
    f"--wrap 'srun --perun {site.SCIENCE}/bin/python phases.py 3 14'",
    "wide": "sbatch --parsable -J wide -N4 -n8 --exclusive -t 10 -o wide.out "
    f"--wrap 'srun --perun {site.SCIENCE}/bin/python phases.py 2 18'",
}
SHOTS = (
    Shot("report", "perun report {phases}"),
    Shot("report-plain", "perun report {plain}"),
    Shot("explain", "perun report {phases} --explain static"),
    Shot("step", "perun report {phases}.0"),
    Shot("jobs", "perun jobs"),
    Shot("usage", "perun usage --by account,month"),
    Shot("top", "perun top"),
    Shot("sensors", "perun sensors", user="root", node="n1"),
    Shot("policy", "perun policy explain --partition main --user alice", rows=30),
    Shot("doctor", "perun off n4; perun doctor --all; perun on n4", user="root", rows=30),
    Shot("compare", "perun compare {phases} {again}"),
)


def main(stage: str) -> int:
    """Do one stage, or all of them."""
    screen, cluster = Screen(), Cluster(os.environ.get("PERUN_SCREENS_CLUSTER", "screens"))
    if stage in ("all", "begin"):
        _begin(cluster, screen)
    if stage in ("all", "learn"):
        _learn(cluster, screen)
    if stage in ("all", "shoot"):
        if (old := site.collector_pid(cluster)) is not None:
            cluster.run(["kill", str(old)], user="root")
        site.install(cluster, screen.step)
        _policy(cluster)
        for node in NODES:  # the next job starts an agent of what was installed now
            cluster.run([PERUN, "agent", "stop"], user="root", node=node)
        _shoot(cluster, screen)
    if stage in ("all", "down"):
        cluster.down()
    return 0


def _policy(cluster: Cluster) -> None:
    """The demo's policy, with agents that stay."""
    text = (cluster.etc_perun / "policy.yaml").read_text()
    (cluster.etc_perun / "policy.yaml").write_text(text.replace("linger: 10 min", "linger: 2 h"))


def _begin(cluster: Cluster, screen: Screen) -> None:
    cluster.up(progress=screen.step)
    site.install(cluster, screen.step)
    _policy(cluster)
    # A cluster that was up before has its archive still; the ledger lay on the controller's own disk.
    cluster.run([PERUN, "ledger", "rebuild"], user="perun", check=True)
    cluster.run(["srun", "-N4", "true"], user=USER, check=True)  # a first job starts the agents


def _learn(cluster: Cluster, screen: Screen) -> None:
    """Wait until each node knows its static power from its own idle times."""
    deadline = time.monotonic() + LEARNING_S
    while (left := [node for node in NODES if not _learnt(cluster, node)]) and (time.monotonic() < deadline):
        screen.move(f"nodes that still learn their static power: {', '.join(left)}")
        time.sleep(10)
    screen.step("static power is learnt" if not left else f"static power of {', '.join(left)} is not learnt yet")


def _learnt(cluster: Cluster, node: str) -> bool:
    done = cluster.run(["cat", "/var/spool/perun/node/state.json"], user="root", node=node)
    try:
        static = json.loads(done.stdout)["static"]
    except (ValueError, KeyError):
        return False
    domains = [
        StaticPower.from_json(value) for name, value in static.items() if name not in (learning.LOWEST, learning.NODES)
    ]
    return bool(domains) and all(one.estimate_uw() is not None for one in domains)


def _shoot(cluster: Cluster, screen: Screen) -> None:
    _copy_programs(cluster)
    shutil.copyfile(HERE / "phases.py", cluster.home / USER / "phases.py")
    jobs = {}
    for name, line in JOBS.items():
        done = cluster.run(["sh", "-c", line], user=USER, check=True)
        jobs[name] = done.stdout.split(";")[0].strip()
        screen.step(f"job {jobs[name]} ({name})")
        cluster.wait_job(jobs[name], timeout=600)
        _recorded(cluster, jobs[name])
    PICTURES.mkdir(parents=True, exist_ok=True)
    left = []
    for shot in SHOTS:
        line = shot.line.format(**jobs)
        code, text = _typed(cluster, line, shot)
        if code not in (0, 1):  # 1: done, and something is to be looked at
            left.append(f"{shot.name} stays as it was: {line}: exit code {code}: {text}")
            continue
        (PICTURES / f"{shot.name}.svg").write_text(draw(f"$ {line}\n{text}", line, shot.rows))
        screen.step(f"{shot.name}: {line}")
    _page(cluster, screen, jobs["wide"])
    if left:
        raise SystemExit("\n".join(left))


def _recorded(cluster: Cluster, job: str) -> None:
    """Wait until the collector has a job's record, and its trace."""
    path = directory(cluster, int(job)) / RECORD
    for _ in range(240):
        if path.exists():
            time.sleep(2)
            return
        time.sleep(0.5)
    raise SystemExit(f"job {job} has no record: see {cluster.log_dir('ctl')}")


def _typed(cluster: Cluster, line: str, shot: Shot) -> tuple[int, str]:
    """A command's exit code, and what a terminal shows of it, with its colours."""
    ours, theirs = pty.openpty()
    command = cluster.command(
        ["env", "TERM=xterm-256color", f"COLUMNS={COLUMNS}", "sh", "-c", line], shot.user, shot.node
    )
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:  # the terminal's end, when the command has ended
            pass
    os.close(ours)
    return process.returncode, shown.decode().replace("\r\n", "\n")


_SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: DejaVu Sans Mono, Menlo, Consolas, monospace; font-size: {char_height}px;
line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""
"""rich's own frame would fetch a font from the network."""


def draw(text: str, title: str, rows: int | None = None) -> str:
    """Return a terminal's text, with its colours, as an SVG; the first `rows` lines of it where that is given."""
    import io

    from rich.console import Console
    from rich.text import Text

    lines = text.rstrip("\n").split("\n")
    if rows is not None and len(lines) > rows:
        lines = [*lines[:rows], "..."]
    width = min(WIDEST, max(COLUMNS, *(Text.from_ansi(line).cell_len for line in lines)))
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    for line in [*lines, ""]:  # rich cuts the last line's descenders
        console.print(Text.from_ansi(line), overflow="fold", highlight=False)
    return console.export_svg(title=title, code_format=_SVG, unique_id="t")


def _page(cluster: Cluster, screen: Screen, job: str) -> None:
    """The page that `perun report --html` writes, as a browser shows it."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        where = ["--archive", str(cluster.shared / "perun"), "--cluster", cluster.name, "--html", str(page)]
        subprocess.run([sys.executable, "-m", "perun_hpc.cli.main", "report", job, *where], check=True)
        browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        shot = ["--window-size=1200,1700", f"--screenshot={PICTURES / 'report-page.png'}", page.as_uri()]
        subprocess.run([*browser, f"--user-data-dir={folder}/profile", *shot], check=True, capture_output=True)
    screen.step("report-page: the page in a browser")


def _stages(words: Sequence[str]) -> str:
    if list(words) not in ([], ["begin"], ["learn"], ["shoot"], ["down"]):
        raise SystemExit("usage: python -m demo.screens [begin | learn | shoot | down]")
    return words[0] if words else "all"


if __name__ == "__main__":
    sys.exit(main(_stages(sys.argv[1:])))
