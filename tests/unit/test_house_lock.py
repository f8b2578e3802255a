"""What a site installs by the lock file: all that setup.cfg asks for, each with its digests, from no named place."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PINNED = re.compile(r"([a-z0-9-]+)==([0-9][^ ]*)((?: --hash=sha256:[0-9a-f]{64})+)")
WANTED = re.compile(r"([A-Za-z0-9-]+)(?:\[[^]]*\])? *>= *([0-9.]+)")


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def pinned() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().replace("\\\n", "").splitlines()
    entries = [" ".join(line.split()) for line in lines if line and not line.startswith("#")]
    found = [PINNED.fullmatch(entry) for entry in entries]
    assert all(found), [entry[:40] for entry, match in zip(entries, found, strict=True) if not match]
    return {match[1]: match[2] for match in found if match}


def test_the_lock_holds_what_setup_asks_for_with_digests() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"] + config["options.extras_require"]["site"]
    wanted = dict(WANTED.fullmatch(line.strip()).groups() for line in lines.splitlines() if line.strip())  # type: ignore[union-attr]
    locked = pinned()
    for name, least in wanted.items():
        assert version(locked[name.lower()]) >= version(least), name


def test_the_lock_names_no_registry() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "--index" not in text
