"""What stands behind the power and energy inputs of a driver: driver and label -> energy domain.

Every row cites where the driver says so. An input without a row is shown and named, and never added to anything: what a
label of `scmi_sensors` means, say, its firmware alone knows. `sensors.files` of the policy gives such a one its place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NODE_UW = 50_000_000_000
"""More than any machine of one node takes; a meter that answers 0xFFFF W tells more."""
MODULE_UW = 10_000_000_000
_CPU_UW = 3_000_000_000
_DRAM_UW = 2_000_000_000
GPU_UW = 5_000_000_000
_CEILING_UW = {"node": NODE_UW, "cpu": _CPU_UW, "dram": _DRAM_UW, "gpu": GPU_UW, "other": NODE_UW}


@dataclass(frozen=True)
class Place:
    """Where an input belongs.

    `inside` names the domains that contain it, the nearest first; one may end in `*`: one of those. `rank` says who
    comes first where several drivers speak of one domain.
    """

    domain: str
    component: str
    scope: str
    max_uw: int
    inside: tuple[str, ...] = ()
    rank: int = 0


@dataclass(frozen=True)
class _Row:
    driver: re.Pattern[str]
    label: re.Pattern[str]
    domain: str
    component: str
    scope: str
    inside: str = ""
    max_uw: int = 0


def _row(driver: str, label: str, domain: str, component: str, scope: str, inside: str = "", max_uw: int = 0) -> _Row:
    """`domain` and `inside` are filled with the label's groups, or with `name`, `chip` and `device`."""
    return _Row(re.compile(driver), re.compile(label, re.IGNORECASE), domain, component, scope, inside, max_uw)


_TABLE: tuple[_Row, ...] = (
    # NVIDIA Grace Performance Tuning Guide, "Power and thermals": rails of a superchip's socket, by `power1_oem_info`.
    _row("power_meter", r"Module Power Socket (?P<n>\d+)", "module-{n}", "node",
         "superchip module: Grace, its memory and its GPU", max_uw=MODULE_UW),
    _row("power_meter", r"Grace Power Socket (?P<n>\d+)", "grace-{n}", "cpu",
         "Grace: CPU cores, SysIO and memory", "module-{n}"),
    _row("power_meter", r"CPU Power Socket (?P<n>\d+)", "package-{n}", "cpu", "Grace CPU cores",
         "grace-{n} module-{n}"),
    _row("power_meter", r"SysIO Power Socket (?P<n>\d+)", "sysio-{n}", "other", "Grace SoC and IO",
         "grace-{n} module-{n}"),
    # ACPI 6.5, 10.4: a power meter measures the machine, where it names no devices (drivers/hwmon/acpi_power_meter.c).
    _row("power_meter", r"(?!.*\bSocket\b).*", "node", "node", "node, by its ACPI power meter"),
    # skiboot's hw/occ-sensor.c: PWRSYS is the bulk power of the system, PWRPROC a processor's, PWRMEM its memory's;
    # the others are rails of these. Energies are accumulated by the controller (drivers/hwmon/ibmpowernv.c).
    _row("ibmpowernv", r"System", "node", "node", "node, by its OCC"),
    _row("ibmpowernv", r"Chip (?P<n>\d+)", "package-{n}", "cpu", "processor chip", "node"),
    _row("ibmpowernv", r"Chip (?P<n>\d+) Memory( \d+)?", "dram-{n}", "dram", "memory of the chip", "node"),
    _row("ibmpowernv", r"Chip (?P<n>\d+) (?P<rail>Vd[dn])", "{rail}-{n}", "other", "{text}, a rail of the chip",
         "package-{n}"),
    _row("ibmpowernv", r"(?P<rail>.*\b(?:APSS|GPU|IO|Fan|Storage)\b.*)", "{rail}", "other",
         "{text}, a part of the node",
         "node"),
    # Documentation/hwmon/amd_energy.rst (Linux 5.8 to 5.12); zenergy is that driver outside the kernel. EsocketN is the
    # register of a package, EcoreNNN those of its cores.
    _row("amd_energy|zenergy", r"Esocket(?P<n>\d+)", "package-{n}", "cpu", "CPU package"),
    _row("amd_energy|zenergy", r"Ecore(?P<n>\d+)", "core{n}", "other", "one core, inside its package", "package-*"),
    # Ampere's altra_hwmon.c (outside the kernel): the firmware's own labels, each with a running number.
    _row("altra_hwmon", r"Core Energy", "package-{chip}", "cpu", "CPU cores, the sum of their counters"),
    # drivers/hwmon/xgene-hwmon.c: CPU total power and IO total power of a socket; what IO contains is not said.
    _row("apm_xgene", r"CPU power", "package-{chip}", "cpu", "CPU rail of the socket"),
    # drivers/platform/x86/amd/hsmp/hwmon.c (Linux 6.16): a chip per socket, the socket's power.
    _row("amd_hsmp_hwmon", r"power1|pinput", "package-{chip}", "cpu", "CPU socket, by its firmware"),
    # drivers/hwmon/fam15h_power.c: the processor's power; of the nodes of one package only the first has a chip.
    _row("fam15h_power", r"power1", "package-{chip}", "cpu", "CPU package"),
    # arch/arm64/boot/dts/apple/hwmon-common.dtsi: PSTR, PDTR; PHPC is an estimate of the SoC's heat (macsmc-hwmon.c).
    _row("macsmc_hwmon", r"Total System Power", "node", "node", "machine, by its management controller"),
    _row("macsmc_hwmon", r"AC Input Power", "ac-input", "other", "what the power supply takes, a battery's charge too"),
    _row("macsmc_hwmon", r"Heatpipe Power", "heatpipe", "other", "estimate of the SoC's heat", "node"),
    _row("macsmc_hwmon", r"3\.8 V Rail Power", "rail-3v8", "other", "3.8 V rail", "node"),
    # drivers/hwmon/ibmaem.c: AEM 1.x has one meter, "an estimate of raw energy consumption". AEM 2.x has two and gives
    # them no names: the node is none of them until the site says which (`sensors.files`). The other powers are limits.
    _row("aem2", r"(?:power|energy)(?P<n>[12])", "aem-{n}", "other",
         "meter {n} of two of its Active Energy Manager 2.x"),
    _row("aem2", r"power[3-8]", "limit-{label}", "other", "{text} of aem2, a limit and no measurement"),
    _row("aem1|ibmaem", r"energy1|power1", "node", "node", "node, by its Active Energy Manager"),
    # drivers/hwmon/corsair-psu.c: what the supply gives, and its rails.
    _row("corsairpsu", r"power total", "node", "node", "machine, behind its power supply"),
    _row("corsairpsu", r"power \+(?P<rail>[0-9.]+v)", "rail-{rail}", "other", "{text}, a rail of the power supply",
         "node"),
    # Jetson Linux Developer Guide, "Power monitors": input rails of the module. VDD_IN is all of it (Orin NX and Nano,
    # Xavier NX); where there is none, the rails beside each other are.
    _row("ina3221", r"VDD_IN", "node", "node", "Jetson module, without its carrier board"),
    _row("ina3221", r"(?:VDD_)?(?:CPU_CV|CPU_GPU_CV|CPU)", "package-0", "cpu", "CPU rail of the module", "node"),
    _row("ina3221", r"(?:VDD_)?(?:GPU_SOC|GPU)", "gpu-{device}", "gpu", "GPU rail of the module", "node"),
    _row("ina3221", r"VIN_SYS_5V0|VDD_?SOC|SOC|(?:VDD_)?CV|VDDRQ|SYS5V", "{label}", "node",
         "{text}, a rail of the module", "node", MODULE_UW),
    # Documentation/ABI/testing/sysfs-driver-intel-i915-hwmon: energy1 of chip i915 is the card's, of i915_gtN a tile's.
    _row(r"i915_gt\d+", r"energy1", "{name}-{device}", "other", "tile of the Intel GPU", "gpu-{device}"),
    _row("i915", r"energy1", "gpu-{device}", "gpu", "Intel GPU, its whole card"),
    # sysfs-driver-intel-xe-hwmon: energy1 is the card's, energy2 the package's in it; some cards show only the latter.
    _row("xe", r"card|energy1", "gpu-{device}", "gpu", "Intel GPU, its whole card"),
    _row("xe", r"pkg|energy2", "gpu-{device}-package", "gpu", "Intel GPU, its package", "gpu-{device}"),
    # drivers/accel/habanalabs/common/hwmon.c: the card's power.
    _row("habanalabs", r"power1", "gpu-{device}", "gpu", "Habana accelerator"),
)  # fmt: skip


def place(drivers: tuple[str, ...], label: str, chip: int, device: str) -> Place | None:
    """Where an input belongs; None where the table knows no such driver or label.

    Parameters
    ----------
    drivers : the chip's name and that of its driver; either may be known.
    label : what the driver calls the input; its stem (`power1`) where it gives no label.
    chip : number of the chip among those of its driver, in the order of their devices: the socket.
    device : name of the device, for what is numbered by nothing else.
    """
    for rank, row in enumerate(_TABLE):
        found = row.label.fullmatch(label)
        if found is None or not any(row.driver.fullmatch(one) for one in drivers):
            continue
        words = {name: slug(word or "") for name, word in found.groupdict().items()}
        words |= {"name": slug(drivers[0]), "chip": str(chip), "device": slug(device), "label": slug(label)}
        domain, inside = row.domain.format_map(words), row.inside.format_map(words)
        ceiling_uw = row.max_uw or _CEILING_UW[row.component]
        scope = row.scope.replace("{text}", label).replace("{n}", words.get("n", ""))
        return Place(domain, row.component, scope, ceiling_uw, tuple(inside.split()), rank)
    return None


def elsewhere(driver: str) -> bool:
    """Whether the driver is a GPU's, whose sensors a backend of its own reads."""
    return re.fullmatch(r"amdgpu|nvidia|nouveau", driver) is not None


def slug(label: str) -> str:
    """A label as part of a domain's name."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
