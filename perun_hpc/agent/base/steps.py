"""The flagged steps of a session, with the ranks that registered on this node."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class RankRun:
    """One rank of a flagged step on this node; times are wall clock."""

    rank: int
    local_rank: int
    pid: int
    start_ns: int
    end_ns: int | None = None
    start_mono_ns: int = 0
    end_mono_ns: int | None = None
    has_data: bool = False

    def hand_over(self) -> None:
        """It has handed over its regions."""
        self.has_data = True

    def finish(self, real_ns: int, mono_ns: int) -> None:
        """Its process is gone."""
        self.end_ns, self.end_mono_ns = real_ns, mono_ns


@dataclass
class Step:
    """A flagged step: how many tasks it has, and the ranks that registered here."""

    step_id: int
    tasks: int
    nodes: int
    command: str
    options: str
    ranks: dict[str, RankRun] = field(default_factory=dict)

    @property
    def text_b(self) -> int:
        """Bytes of its command and options."""
        return len((self.command + self.options).encode())
