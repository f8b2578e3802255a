"""Kinds of case that hurt the rules: neighbours that are one program, GPUs in parts, jobs that sleep, gaps, loops."""

from __future__ import annotations

from bench.coverage.kinds import Trial, sums

TRIALS: dict[str, Trial] = {
    "sums-alike": sums(True, alike=True),
}
