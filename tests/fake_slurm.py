"""A `sacct` for PATH that answers from a file as Slurm's own does, for tests through commands without a cluster.

It formats times by SLURM_TIME_FORMAT and TZ, takes `utsEPOCH` and local times, knows job ids and time spans, and says
what it was asked: as seen with Slurm 22.05.8. The kernel, not the program, refuses a command line that is too long.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROW: Mapping[str, Any] = {
    "JobIDRaw": "4711", "JobID": "4711", "JobName": "stencil", "User": "alice", "UID": "2001", "GID": "2001",
    "Account": "physics", "Partition": "main", "QOS": "normal", "Cluster": "c", "Suspended": "00:00:00",
    "State": "COMPLETED", "ExitCode": "0:0", "NodeList": "n1", "NNodes": "1", "NCPUS": "4",
    "AllocTRES": "billing=4,cpu=4,node=1", "TimelimitRaw": "10", "TotalCPU": "01:02.500", "AdminComment": "",
}  # fmt: skip
TIMES = ("Submit", "Start", "End")


def install(directory: Path, rows: Iterable[Mapping[str, Any]], most_s: int = 1 << 40, has: Iterable[str] = ()) -> Path:
    """Put a `sacct` that knows `rows` into `directory`, which is to stand first in PATH; returns its log.

    `rows` are `ROW` with changes, Submit, Start and End in epoch seconds or as words; it fails for spans of more than
    `most_s` seconds, and `has` are further fields that it knows.
    """
    directory.mkdir(parents=True, exist_ok=True)
    data = directory / "sacct.json"
    data.write_text(json.dumps({"rows": list(rows), "most_s": most_s, "has": list(has)}))
    program = directory / "sacct"
    program.write_text(f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
                       f"import fake_slurm\nfake_slurm.sacct({str(data)!r})\n")  # fmt: skip
    program.chmod(0o755)
    return directory / "sacct.log"


def sacct(data: str) -> None:
    """Answer the command line."""
    known = json.loads(Path(data).read_text())
    options = _options(sys.argv[1:])
    with Path(data).with_suffix(".log").open("a") as log:
        log.write(json.dumps(options) + "\n")
    if "--helpformat" in options:
        print("\n".join([*ROW, *TIMES, *known["has"]]))
        return
    rows = known["rows"]
    if "-j" in options:
        wanted = set(options["-j"].split(","))
        rows = [r for r in rows if wanted & {r["JobIDRaw"], r["JobID"], r["JobID"].split("_")[0].split("+")[0]}]
    else:
        since_s, until_s = _seconds(options["-S"]), _seconds(options["-E"])
        if until_s - since_s > known["most_s"]:
            sys.exit("sacct: error: slurmdbd: Getting response to message type: DBD_GET_JOBS_COND")
        rows = [r for r in rows if _at(r["End"], until_s) >= since_s and _at(r["Submit"], 0) <= until_s]
    if "--user" in options:
        rows = [r for r in rows if r["User"] in options["--user"].split(",")]
    delimiter = options["--delimiter"]
    for row in rows:
        cells = [_shown(row.get(name, "")) if name in TIMES else row.get(name, "") for name in _names(options)]
        sys.stdout.write(delimiter.join([*cells, "\n"]))


def _options(words: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for at, word in enumerate(words):
        if word.startswith("--"):
            name, _, value = word.partition("=")
            found[name] = value
        elif word.startswith("-"):
            found[word] = words[at + 1]
    return found


def _names(options: Mapping[str, str]) -> list[str]:
    return options["--format"].split(",")


def _seconds(text: str) -> int:
    if text.startswith("uts"):
        return int(text[3:])
    return int(time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S")))


def _at(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise


def _shown(value: Any) -> str:
    if not isinstance(value, int):
        return str(value)
    form = os.environ.get("SLURM_TIME_FORMAT", "standard")
    form = {"standard": "%Y-%m-%dT%H:%M:%S", "relative": "%H:%M:%S"}.get(form, form)
    return time.strftime(form, time.localtime(value))
