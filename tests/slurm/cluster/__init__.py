"""A real four-node Slurm cluster on one machine, for the demo and the tests."""

from .cluster import Cluster, ClusterError
from .simulator import ServedLog

__all__ = ["Cluster", "ClusterError", "ServedLog"]
