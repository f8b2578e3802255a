"""Slurm on virtual machines with systemd, cgroup version 2 and kernel drivers: `make vm`, docs/vm.md."""
