"""What the accounting side needs of the site's policy, as one small value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.config import policy as site_policy
from perun_hpc.config.compile import compile_policy
from perun_hpc.config.policy import Policy
from perun_hpc.config.resolve import JobFacts, JobSettings, resolve


@dataclass(frozen=True)
class Site:
    """Where things lie and how the collector behaves; times in seconds."""

    archive: Path
    ledger: str
    deadline_s: float
    sweep_s: float
    slurmdbd: str
    slurmdbd_per_s: float
    settings: JobSettings


def load_site(environ: Mapping[str, str] = os.environ) -> Site:
    """Read the policy that rules here; without a policy file the defaults. `ConfigError` where the file is broken."""
    path = site_policy.locate(environ)
    policy = site_policy.load(path) if path.exists() else Policy(source="defaults")
    settings = resolve(compile_policy(policy), JobFacts())
    return Site(
        archive=Path(settings.store.archive),
        ledger=settings.collect.ledger,
        deadline_s=settings.collect.deadline_ns / 1e9,
        sweep_s=settings.collect.sweep_ns / 1e9,
        slurmdbd=settings.collect.slurmdbd,
        slurmdbd_per_s=settings.collect.slurmdbd_per_s,
        settings=settings,
    )
