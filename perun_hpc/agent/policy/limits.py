"""What the policy allows the agent: priority, CPUs, memory; and how a child is held to its part."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import TYPE_CHECKING

from perun_hpc.agent.sources.node import resident_b
from perun_hpc.data_model import cpu_list

if TYPE_CHECKING:
    from perun_hpc.config.schema import Agent


def step_back(settings: Agent) -> None:
    """Take the priority and the CPUs that the policy gives; called when it is known, and when it changes."""
    with contextlib.suppress(OSError):  # a priority can only be lowered
        os.setpriority(os.PRIO_PROCESS, 0, settings.nice)
    with contextlib.suppress(OSError, ValueError):  # CPUs that this node, or any, does not have
        os.sched_setaffinity(0, cpu_list.parse(settings.cpu_affinity) or range(os.cpu_count() or 1))


LEAST_LEFT_B = 64 << 20
"""Children that ship may always take so much together: evidence leaves also where the cap is low."""


def left_b(settings: Agent) -> int:
    """What children may take together, beside this process, below the policy's cap."""
    return max(LEAST_LEFT_B, settings.memory_cap_b - resident_b())


def near_memory(settings: Agent) -> bool:
    """Whether this process holds so much memory that it should let go of what it can do without."""
    return resident_b() > settings.memory_cap_b // 4 * 3


def over_memory(settings: Agent) -> int | None:
    """The memory that this process holds, if it is more than the policy's cap; else None."""
    held = resident_b()
    return held if held > settings.memory_cap_b else None


def bound(what: int, most: int, for_good: bool = False) -> None:
    """Set a limit of this process, as far as the hard one allows; `for_good`: and nothing raises it again."""
    hard = resource.getrlimit(what)[1]
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (soft, soft if for_good else hard))
