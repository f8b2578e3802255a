"""How often properties are tried: as often as fits into every run of the tests; by `make soak` twenty times that."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

DEEP = 20
USUAL = 100
"""Hypothesis' own default."""

# Without a deadline: a machine that is busy is no finding.
settings.register_profile("usual", deadline=None, max_examples=USUAL)
settings.register_profile("deep", deadline=None, max_examples=DEEP * USUAL)
settings.load_profile("usual")


def examples(count: int, **more: Any) -> settings:
    """Settings of a property of which `count` examples cost as much as a hundred of others."""
    return settings(max_examples=max(1, count * settings.default.max_examples // USUAL), deadline=None, **more)
