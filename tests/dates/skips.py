"""Tests that cannot run while libfaketime moves the clock, by id or folder, with the reason."""

from __future__ import annotations

SKIPS: dict[str, str] = {}
