"""A run that `perun monitor` stored as the parts of a tree: each round with its energy, regions and samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.data_model.data import DataNode, Metric, MetricType, NodeType
from perun_hpc.monitoring import runs
from perun_hpc.report.stored import of_tree
from perun_hpc.report.trees.columns import table
from perun_hpc.report.trees.samples import of_store
from perun_hpc.store import layout

if TYPE_CHECKING:
    import xarray

_SAID = ("app", "status", "perun_version", "execution_dt")


def of_run(directory: Path) -> dict[str, xarray.Dataset] | None:
    """The parts of a run's tree, the rounds below their numbers; None where `directory` is no run's.

    Raises
    ------
    DataError
        where what is there cannot be read.
    """
    tree = runs.at(directory)
    if tree is None:
        return None
    parts = {"/": _said(tree)}
    rounds = list(tree.walk(NodeType.RUN))
    for one, subject in zip(rounds, of_tree(tree), strict=True):
        energy = {"energy_uj": subject.energy_uj, "u_uj": subject.u_uj} if subject.parts else {}
        row = {**energy, "elapsed_s": subject.elapsed_s}
        whole = table([row], "run").isel(run=0)
        found = {**of_round(directory / one.id), "/": whole, **_tables(one)}
        parts |= {f"{one.id}/{name}".rstrip("/"): part for name, part in found.items()}
    return parts


def of_round(directory: Path) -> dict[str, xarray.Dataset]:
    """The samples of one round: those of its hosts side by side where what they hold is of one kind.

    Several hosts need dask, since their times differ.
    """
    hosts = {path.parent.name: of_store(path.parent) for path in sorted(directory.glob(f"*/{layout.STORE}"))}
    if len(hosts) <= 1:
        return next(iter(hosts.values()), {})
    return together(list(hosts.values()))


def together(hosts: list[dict[str, xarray.Dataset]]) -> dict[str, xarray.Dataset]:
    """Parts of several hosts' trees as those of one, along the dimension host; where one has no sample it is NaN."""
    import xarray

    parts: dict[str, xarray.Dataset] = {}
    for name in dict.fromkeys(name for host in hosts for name in host):
        if name == "/":
            continue  # each says the same of itself
        group, _, quantity = name.rpartition("/")
        having = [host for host in hosts if name in host]
        alone = [_with_hosts(host[name], host[group]) if group else host[name] for host in having]
        joined = xarray.concat(
            [one.chunk() for one in alone],
            "host",
            join="outer",
            data_vars="minimal",
            coords="minimal",
            compat="override",
        )
        parts[name] = joined.drop_vars(["host", "time"], errors="ignore") if group and quantity else joined
    return parts


def _with_hosts(part: xarray.Dataset, above: xarray.Dataset) -> xarray.Dataset:
    return part.assign_coords(host=above.host, time=above.time)


def _said(tree: DataNode) -> xarray.Dataset:
    import xarray

    said = {key: str(tree.metadata[key]) for key in _SAID if tree.metadata.get(key) is not None}
    return xarray.Dataset(attrs={"title": f"run {tree.id}", "run_id": tree.id, **said})


def _tables(one: DataNode) -> dict[str, xarray.Dataset]:
    hosts, regions = [], []
    for host in one.walk(NodeType.NODE):
        hosts.append({"host": host.id, "state": str(host.metadata.get("state", "")), **_energy(host.metrics)})
        for region in host.regions:
            row: dict[str, Any] = {"region": region.name, "host": region.host, "rank": region.rank}
            row |= {"calls": region.calls, "duration_s": region.time_s, "mean_s": region.mean_s, "max_s": region.max_s}
            regions.append({**row, **_energy(region.metrics)})
    found = {"hosts": table(hosts, "host")} if hosts else {}
    return {**found, **({"regions": table(regions, "region")} if regions else {})}


def _energy(metrics: Any) -> dict[str, float | None]:
    energy = metrics.get(MetricType.ENERGY)
    if not isinstance(energy, Metric):
        return {}
    known = energy.uncertainty
    return {"energy_uj": energy.value * 1e6, "u_uj": None if known is None else known * 1e6}
