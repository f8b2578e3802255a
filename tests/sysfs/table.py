"""What is right for each tree, and where that is known from: a row per tree, in the order of their names.

`tests/flow/test_trees.py` runs every row through `perun monitor`'s way and the agent's. A row that is wrong today names
its `fault`: it is expected to fail until that is mended, and fails the tests once it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from perun_hpc.energy.containment import package_number


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a node of that tree is said to use while its counters run as the tree's `move` lines say.

    Attributes
    ----------
    watts : domain -> watts, of all domains that are no meters; None: nobody knows. A name may end in `*`.
    total_w : the node's figure; None: there is none.
    meters : the meters that are accounted, by domain.
    whole : whether the figure is complete; else both ways say why.
    words : what must stand in what is said of it: why it is partial, what is missing, what is left out.
    cores, packages : physical cores; CPUs of each package that counters speak of. None: not of interest.
    known_from : where the expectation comes from.
    jobs : job id -> CPU time in ms, and the CPUs that its cgroup confines it to (None: to none).
    fault : what is wrong today; empty where the row holds.
    """

    known_from: str
    watts: Mapping[str, float | None] = field(default_factory=dict)
    total_w: float | None = None
    meters: tuple[str, ...] = ()
    whole: bool = True
    words: tuple[str, ...] = ()
    cores: int | None = None
    packages: Mapping[int, frozenset[int]] | None = None
    jobs: Mapping[str, tuple[int, frozenset[int] | None]] = field(default_factory=dict)
    fault: str = ""


_METER = "the kernel's acpi_power_meter: all ones is `unknown`; the sound package beside it"
_TWO_METERS = "nobody says whether one ACPI meter contains the other or stands beside it: two of them, and no node's"
_RAPL = "Documentation/power/powercap/powercap.rst: package contains core and uncore, dram stands beside it"

TABLE: dict[str, Row] = {
    "bug_acpi_eio": Row(
        known_from="a meter whose every read fails measures nothing; the sound package is what there is",
        watts={"package-0": 40}, total_w=40, words=("hwmon1", "not read: hwmon1/power1_average"),
    ),
    "bug_acpi_ffffffff": Row(
        known_from=_METER, watts={"package-0": 40}, total_w=40, words=("hwmon1",),
    ),
    "bug_acpi_ffffffff_1s": Row(
        known_from=_METER, watts={"package-0": 40}, total_w=40, words=("hwmon1",),
    ),
    "bug_docker_masked_powercap": Row(
        known_from="runc's default masked paths; links into an empty /sys/devices/virtual/powercap",
        words=("container",),
    ),
    "bug_gb300_module": Row(
        known_from="the module's own limit of 2900 W; NVIDIA's Grace guide: the module contains the Grace rail",
        watts={"grace-0": 300}, total_w=2600, meters=("module-0",),
    ),
    "bug_node_10kw": Row(
        known_from="the maximum that NVIDIA states for a DGX H100", total_w=10_200, meters=("node",),
    ),
    "bug_odd_numbers": Row(
        known_from="no power of a machine is negative, and no file that holds no number measures",
        words=tuple(f"hwmon{chip}" for chip in range(9)),
    ),
    "bug_package1_einval": Row(
        known_from="what the other package uses is not known, so the figure is not whole",
        watts={"package-0": 40, "package-1": None}, total_w=40, whole=False, words=("package-1",),
    ),
    "bug_psys_zero": Row(
        known_from="the package's own counter; a platform that uses nothing is none",
        watts={"package-0": 40}, total_w=40, meters=("psys",), whole=False, words=("psys: its counter stands still",),
    ),
    "bug_same_name_chips": Row(
        known_from=_TWO_METERS,
        words=("hwmon0", "hwmon1", "hwmon2", "hwmon3",
               "nobody knows where they belong: ina226 power1, node, by its ACPI power meter, one of 2"),
    ),
    "bug_two_psys": Row(
        known_from="intel_rapl_common names the zone `psys` per package: each is its own socket's platform",
        watts={"package-0": 100, "dram-0": 10, "package-1": 100, "dram-1": 10}, total_w=300,
        meters=("psys-0", "psys-1"),
    ),
    "bug_vm_16_packages_zero": Row(
        known_from="a counter that has never moved measures nothing: jobs there have an estimate",
        words=("virtual machine", "stand at 0", *(f"intel-rapl:{number:x}" for number in range(10))),
    ),
    "cgroup_v1": Row(
        known_from="no file of energy or power; the captured values", cores=2,
        jobs={"1": (4905, frozenset({0}))},
    ),
    "cgroup_v2": Row(
        known_from="no file of energy or power; cpuset.cpus", cores=2, jobs={"7": (2500, frozenset({4, 5}))}
    ),
    "cgroup_v2_own_slice": Row(
        known_from="no file of energy or power; cgroup.conf(5): CgroupSlice is where the scope lies",
        jobs={"7": (2500, frozenset({4, 5}))},
    ),
    "cgroup_v2_unconstrained_cpuset": Row(
        known_from="no file of energy or power; cgroup-v2.rst: an empty cpuset.cpus confines nobody",
        jobs={"1": (100, None)},
    ),
    "cray_ex": Row(
        known_from="HPE's pm_counters documentation: the node contains CPU, memory and accelerators",
        watts={"cray-cpu": 110, "cray-memory": 51, "cray-accel0": 180, "cray-accel1": 176}, total_w=600,
        meters=("node",),
    ),
    "cray_ex235a_frontier": Row(
        known_from="the captured values of power; the node contains the rest",
        watts={
            "cray-cpu": 35, "cray-memory": 76,
            "cray-accel0": 92, "cray-accel1": 90, "cray-accel2": 91, "cray-accel3": 91,
        },
        total_w=495, meters=("node",),
    ),
    "cray_gh200_ex254n": Row(
        known_from="cpu_energy is the sum of cpu0 to cpu3 in the published listings",
        watts={**{f"cray-cpu{n}": 100 for n in range(4)}, **{f"cray-accel{n}": 350 for n in range(4)}}, total_w=2000,
        meters=("node",), words=("cray-cpu",),
    ),
    "gh200": Row(
        known_from="NVIDIA's Grace guide: the module contains the Grace rail, that one CPU and SysIO",
        watts={"grace-0": 250}, total_w=700, meters=("module-0",),
    ),
    "gpus_mi300a_partitions": Row(known_from="no file of energy or power"),
    "grace_superchip_package_ids": Row(
        known_from="NVIDIA's Grace guide; sockets in the order of the kernel's package ids",
        watts={"grace-0": 98, "grace-1": 109}, total_w=207, cores=8,
        words=("package-0", "sysio-1", "Grace CPUs with their memory"),
        packages={0: frozenset(range(4)), 1: frozenset(range(4, 8))},
    ),
    "hwmon_amd_energy_2s": Row(
        known_from="amd_energy.c: Esocket is the package's register, Ecore the cores' in it",
        watts={"package-0": 90, "package-1": 80}, total_w=170, words=("core007",),
    ),
    "hwmon_apm_xgene_2s": Row(
        known_from="xgene-hwmon.c: CPU power is the processor's rail, IO power another's; a chip per socket",
        watts={"package-0": 16.280001, "package-1": 16.280002}, total_w=32.560003,
        words=("io-power", "nobody knows where they belong: apm_xgene IO power"),
    ),
    "hwmon_battery_laptop": Row(
        known_from="power_supply_hwmon.c: what a battery gives or takes, its charge too, and no part of the machine",
        watts={"package-0": 15}, total_w=15, words=("core-0", "nobody knows where they belong: BAT0 power1"),
    ),
    "hwmon_fam15h_2": Row(
        known_from="fam15h_power.rst: power1_input is the processor's",
        watts={"package-0": 28.820001, "package-1": 28.820002}, total_w=57.640003,
    ),
    "hwmon_habanalabs_8": Row(
        known_from="habanalabs/common/hwmon.c: power1 is the card's, by its PCI address",
        watts={
            "package-0": 200, "package-1": 210, "dram-0": 30, "dram-1": 31,
            **{f"gpu-0000-{16 + n:02x}-00-0": 300 + n for n in range(8)},
        },
        total_w=2899,
    ),
    "hwmon_hsmp_2s": Row(
        known_from="amd_hsmp.rst: the socket's power",
        watts={"package-0": 45, "package-1": 90}, total_w=135,
    ),
    "hwmon_i915_pvc": Row(
        known_from="sysfs-driver-intel-i915-hwmon: energy1_input of i915 is the card's, of i915_gtN a tile's",
        watts={"package-0": 40, "gpu-*": 50}, total_w=90, words=("i915-gt0", "i915-gt1"),
    ),
    "hwmon_ibmaem_2": Row(
        known_from="ibmaem.c: two energy meters, of which nothing says whether one contains the other",
        watts={"package-0": 40}, total_w=40,
        words=("meter 1 of two of its Active Energy Manager", "meter 2 of two", "a limit and no measurement"),
    ),
    "hwmon_ibmpowernv_p9": Row(
        known_from="the listing itself: System is 426 W, chips 157 and 99 W, their Vdd and Vdn rails less",
        watts={"package-0": 157, "package-8": 99}, total_w=426, meters=("node",), words=("vdd", "apss"),
    ),
    "hwmon_jetson_ina3221": Row(
        known_from="volts times amperes of each rail; NVIDIA's list of the module's input rails",
        watts={"package-0": 1.52512, "gpu-hwmon1": 3.05024}, total_w=7.57056, meters=("vin-sys-5v0",),
    ),
    "hwmon_macsmc": Row(
        known_from="macsmc_hwmon: Total System Power is the machine's", total_w=12, meters=("node",),
        words=("ac-input", "heatpipe"),
    ),
    "hwmon_pmbus_two_supplies": Row(
        known_from="pmbus_core.c: pin and pout1 of each supply; whether all of them are there no driver says",
        watts={"package-0": 120, "dram-0": 12}, total_w=132, words=("dps650ab pin, dps650ab pout1", "hwmon1", "hwmon2"),
    ),
    "hwmon_power_meter_invalid": Row(
        known_from=_METER, watts={"package-0": 40}, total_w=40, words=("hwmon1", "not read: hwmon1/power1_average"),
    ),
    "hwmon_scmi_board": Row(
        known_from="scmi-hwmon.c: labels are the firmware's, which says nothing of what they contain",
        words=("scmi_sensors cluster0_energy", "cluster1_power", "soc_energy"),
    ),
    "hwmon_two_power_meters": Row(
        known_from=_TWO_METERS,
        words=("hwmon1", "hwmon2"),
    ),
    "hwmon_xe": Row(
        known_from="sysfs-driver-intel-xe-hwmon: energy1 is the card's, energy2 the package's in it",
        watts={"package-0": 40, "gpu-*": 50}, total_w=90, words=("-package",),
    ),
    "hwmon_zenergy_hsmp_beside_rapl": Row(
        known_from="the drivers' sources: powercap, Esocket and the firmware's power speak of one package",
        watts={"package-0": 90, "package-1": 80}, total_w=170, words=("core000", "hwmon3", "hwmon4"),
    ),
    "intel_two_sockets": Row(
        known_from=_RAPL, watts={"package-0": 100, "dram-0": 10, "package-1": 120, "dram-1": 12}, total_w=242,
        words=("intel-rapl-mmio:0",),
    ),
    "powercap_amd_ccd_mirrors": Row(
        known_from="linux-pm: on 6.9 and 6.10 every die's zone shows the one register of its package",
        watts={"package-0-die-0": 100, "package-1-die-0": 120}, total_w=220,
        words=("intel-rapl:1", "intel-rapl:7", "intel-rapl:9", "intel-rapl:f"),
    ),
    "powercap_cascade_lake_ap": Row(
        known_from=f"{_RAPL}; intel_rapl_common.c: a zone for each die of a package, with the die's own memory",
        watts={
            "package-0-die-0": 100, "package-0-die-1": 110, "package-1-die-0": 120, "package-1-die-1": 130,
            "dram-0-die-0": 10, "dram-0-die-1": 11, "dram-1-die-0": 12, "dram-1-die-1": 13,
        },
        total_w=506, cores=8,
        packages={
            package_number(f"package-{package}-die-{die}") or 0: frozenset({first, first + 1})
            for first, (package, die) in zip(range(0, 8, 2), ((0, 0), (0, 1), (1, 0), (1, 1)))
        },
    ),
    "powercap_hex_16_packages": Row(
        known_from="powercap_sys.c names zones with %x: sixteen packages of 10 W, with 1 W of memory each",
        watts={**{f"package-{n}": 10 for n in range(16)}, **{f"dram-{n}": 1 for n in range(16)}}, total_w=176,
    ),
    "powercap_laptop_mmio_psys": Row(
        known_from=f"{_RAPL}; psys is the platform with all of it",
        watts={"package-0": 10, "dram-0": 2}, total_w=20, meters=("psys",),
        words=("core-0", "uncore-0", "intel-rapl-mmio:0"),
    ),
    "powercap_two_psys": Row(
        known_from="each psys contains its own package",
        watts={"package-0": 100, "package-1": 100}, total_w=310, meters=("psys-0", "psys-1"),
    ),
    "topology_sg2042_cluster_core_ids": Row(
        known_from="thread_siblings_list: no CPU shares a core", cores=8,
    ),
    "topology_smt_off": Row(
        known_from="`online`: eight CPUs on eight cores, four a package",
        watts={"package-0": 100, "package-1": 120}, total_w=220, cores=8,
        packages={0: frozenset(range(4)), 1: frozenset(range(4, 8))},
    ),
}  # fmt: skip
