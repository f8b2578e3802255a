"""`perun metadata`: what this machine is, as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    """No options."""


def machine(root: Path = Path("/")) -> dict[str, Any]:
    """Host, kernel, processors, memory, Python and the sensors that can be read."""
    from perun_hpc.backend.catalog import discover_all
    from perun_hpc.data_model import codec
    from perun_hpc.monitoring.machine import facts

    catalog = discover_all(root)
    try:
        sensors = [
            {"id": s.id, "backend": s.backend, "device": s.device, "unit": s.unit, "provenance": s.provenance}
            for s in catalog.sensors
        ]
        missing = [codec.encode(one) for one in catalog.missing]
    finally:
        catalog.close()
    return {**facts(root), "sensors": sensors, "missing": missing}


def run(args: argparse.Namespace) -> int:
    """Print a JSON object with this host's name as its key; ranks of an MPI launch are one object at rank 0."""
    from perun_hpc.backend.base import host_name
    from perun_hpc.comm import Comm

    comm = Comm.detect()
    parts = comm.gather(json.dumps({host_name(): machine()}).encode()) if comm.place.size > 1 else None
    hosts: dict[str, Any] = {}
    for part in parts or ():
        hosts.update(json.loads(part) if part else {})
    if comm.place.size == 1:
        hosts = {host_name(): machine()}
    if hosts:
        print(json.dumps(hosts, indent=1))
    comm.close()
    return 0
