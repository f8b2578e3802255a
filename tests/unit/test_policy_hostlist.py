"""Node lists beside Slurm's own: what `scontrol show hostnames` names, in its order, blanks among them."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from perun_hpc.config.compile import compile_policy
from perun_hpc.config.policy import PolicyError, parse
from perun_hpc.config.resolve import JobFacts, resolve
from perun_hpc.slurm import hostlist

EXPRESSIONS = 120


@pytest.fixture(scope="module")
def scontrol(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """What Slurm makes of a node list."""
    program = shutil.which("scontrol")
    if program is None:
        pytest.skip("no scontrol here")
    conf: Path = tmp_path_factory.mktemp("slurm") / "slurm.conf"
    conf.write_text("ClusterName=c\nSlurmctldHost=localhost\nNodeName=localhost\nPartitionName=p Nodes=localhost\n")

    def names(text: str) -> list[str]:
        command = [program, "show", "hostnames", text]
        done = subprocess.run(command, env={"SLURM_CONF": str(conf)}, capture_output=True, text=True, check=True)
        return done.stdout.split()

    return names


def expression(rng: random.Random) -> tuple[str, int]:
    """A random node list, and the most brackets that one of its names has."""
    most = 0
    items = []
    for _ in range(rng.randrange(1, 4)):
        brackets = rng.randrange(0, 4)
        most = max(most, brackets)
        item = rng.choice("abc")
        for at in range(brackets):
            first = rng.randrange(0, 12)
            last, width = first + rng.randrange(0, 3), rng.choice((1, 2, 3))
            item += f"{'xy'[at - 1] if at else ''}[{first:0{width}d}-{last:0{width}d}]"  # 22.05: no text after the last
        items.append(item)
    separators = [rng.choice((",", " ", ", ", " ,", "  ")) for _ in items]
    return "".join(item + mark for item, mark in zip(items, separators, strict=True)).strip(" ,"), most


def test_node_lists_name_what_slurm_names(scontrol: Callable[[str], list[str]]) -> None:
    """22.05 has an order of its own where a name has three brackets; the nodes are the same."""
    rng = random.Random(21)
    for _ in range(EXPRESSIONS):
        text, brackets = expression(rng)
        ours, theirs = list(hostlist.expand(text)), scontrol(text)
        assert sorted(ours) == sorted(theirs), text
        assert brackets > 2 or ours == theirs, text


def test_a_policys_node_list_with_blanks_matches() -> None:
    policy = compile_policy(parse(b"nodes:\n  n[1-2] n3:\n    sampling: {period: 5 s}\n", "site.yaml"))
    periods = [resolve(policy, JobFacts(node=node)).sampling.period_ns for node in ("n1", "n2", "n3", "n4")]
    assert periods == [5 * 10**9, 5 * 10**9, 5 * 10**9, 10**9]


@pytest.mark.parametrize("name", ["*", "n*", "n?", "n1;n2", "'n1'", "n[1-2]*", "-n1"])
@pytest.mark.parametrize("where", ["nodes:\n  {}:\n    sampling: {{period: 5 s}}\n", "monitor: {{canaries: {}}}\n"])
def test_what_no_node_is_called_is_a_mistake_of_the_policy(where: str, name: str) -> None:
    with pytest.raises(PolicyError, match="is no node's name: name each node, there are no wildcards"):
        parse(where.format(json.dumps(name)).encode(), "site.yaml")
