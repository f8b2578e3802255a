"""The energy plugin on the test cluster, switched on and off as docs/install.md says."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence

from devcluster import Cluster
from devcluster.site import CHECKOUT, SLURM_CONF

PLUGIN = "acct_gather_energy_perun.so"
POLL_S = 5
"""JobAcctGatherFrequency's task= of the cluster."""
NODE_S = 2
"""AcctGatherNodeFreq here."""
PROFILES = "/shared/profiles"


def switch(
    cluster: Cluster,
    lines: tuple[str, ...],
    daemons: tuple[str, ...] = ("slurmctld", "slurmd"),
    nodes: Sequence[str] | None = None,
) -> None:
    """Put lines below perun's own in slurm.conf and restart Slurm's daemons; then these nodes (all) are idle."""
    cluster.configure((*SLURM_CONF, *lines))
    for daemon in daemons:
        cluster.restart(daemon)
    cluster.wait_idle(nodes=nodes)


def plugin_lines(cluster: Cluster) -> tuple[str, ...]:
    """Put the plugin where all hosts see it; returns the lines of slurm.conf that name it."""
    directory = cluster.shared / "plugins"
    directory.mkdir(exist_ok=True)
    fresh = directory / f".{PLUGIN}.new"
    shutil.copyfile(CHECKOUT / "slurm" / "build" / PLUGIN, fresh)
    fresh.replace(directory / PLUGIN)
    found = cluster.run(["scontrol", "show", "config"], user="root", check=True).stdout
    (there,) = re.findall(r"^PluginDir += (\S+)", found, re.MULTILINE)
    own = "/shared/plugins"
    return (
        f"PluginDir={there if own in there.split(':') else f'{own}:{there}'}",
        "AcctGatherEnergyType=acct_gather_energy/perun",
        f"AcctGatherNodeFreq={NODE_S}",
    )


@contextlib.contextmanager
def policy_with(cluster: Cluster, lines: str) -> Iterator[None]:
    """The cluster's policy with further lines."""
    policy = cluster.etc_perun / "policy.yaml"
    good = policy.read_text()
    fresh = policy.with_suffix(".new")
    fresh.write_text(good + lines)
    fresh.replace(policy)
    try:
        yield
    finally:
        fresh.write_text(good)
        fresh.replace(policy)


@contextlib.contextmanager
def switched_on(cluster: Cluster, profiles: bool = False, nodes: Sequence[str] | None = None) -> Iterator[Cluster]:
    """The cluster with the plugin in force; with `profiles` Slurm keeps HDF5 series, too.

    Jobs may go on beside `nodes`; the processes that Slurm has for them know nothing of the plugin.
    """
    lines = plugin_lines(cluster)
    keys = cluster.etc_slurm / "acct_gather.conf"
    if profiles:
        directory = cluster.shared / "profiles"
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
        keys.write_text(f"ProfileHDF5Dir={PROFILES}\n")
        lines += ("AcctGatherProfileType=acct_gather_profile/hdf5",)
    with policy_with(cluster, "metrics: {slurm: true}\n"):
        switch(cluster, lines, nodes=nodes)
        try:
            yield cluster
        finally:
            keys.unlink(missing_ok=True)
            switch(cluster, (), nodes=nodes)
