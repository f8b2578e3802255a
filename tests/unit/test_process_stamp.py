"""Lines of the agent and of its children carry their time, where no journal adds it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} ")
PROGRAMS = {
    "agent": "from perun_hpc.process.log import log; log('a word')",
    "child": "from perun_hpc.process import child; child.start('a word', lambda: 1 // 0); __import__('os').wait()",
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("journal", [True, False], ids=["journal", "file"])
def test_a_line_has_its_time_once(tmp_path: Path, program: str, journal: bool) -> None:
    with (tmp_path / "log").open("wb") as file:
        at = os.fstat(file.fileno())
        there = f"{at.st_dev}:{at.st_ino}" if journal else f"{at.st_dev}:{at.st_ino + 1}"
        environment = {**os.environ, "JOURNAL_STREAM": there}
        subprocess.run([sys.executable, "-c", PROGRAMS[program]], stderr=file, env=environment, check=True, timeout=60)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "a word" in line
    assert bool(TIME.match(line)) is not journal
