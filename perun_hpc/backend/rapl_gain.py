"""How wrong RAPL counts, by the generation of the processor: some measure, some model."""

from __future__ import annotations

FILTERED = "; SGX is on, which adds noise to differences over short times (energy filtering)"
_MEASURED = (0.03, "assumed 3 % (k=1); published comparisons with wall meters lie between 1 and 10 %")
_INTEL_MODEL = (
    0.08,
    "assumed 8 % (k=1): before Haswell RAPL is a model, not a measurement (Hackenberg et al., IPDPSW 2015)",
)
_AMD_MODEL = (
    0.08,
    "assumed 8 % (k=1): before Zen 3 RAPL is a model that sees no data worked on (Schöne et al., arXiv 2108.00808)",
)
_BEFORE_HASWELL = (0x2A, 0x2D, 0x3A, 0x3E)
"""Models of Intel's family 6 that have RAPL and no measuring voltage regulator: Sandy Bridge and Ivy Bridge."""
_ZEN_3 = 0x19
"""AMD's family from which on RAPL is not known to be a model; Hygon's 0x18 is Zen 1."""


def gain(cpu: bytes) -> tuple[float, str]:
    """What one CPU's part of /proc/cpuinfo says of the gain error of RAPL there.

    Parameters
    ----------
    cpu : the text of one CPU; empty where it could not be read.

    Returns
    -------
    The relative standard uncertainty (k=1), and where it is from.
    """
    said = dict(_pair(line) for line in cpu.splitlines() if b":" in line)
    vendor = said.get("vendor_id", "")
    family, model = _number(said.get("cpu family", "")), _number(said.get("model", ""))
    error, source = _MEASURED
    if vendor == "GenuineIntel" and family == 6 and model in _BEFORE_HASWELL:
        error, source = _INTEL_MODEL
    elif vendor in ("AuthenticAMD", "HygonGenuine") and family is not None and family < _ZEN_3:
        error, source = _AMD_MODEL
    # Processors with SGX add noise to RAPL against side channels (Intel, "RAPL energy filtering").
    return error, source + (FILTERED if "sgx" in said.get("flags", "").split() else "")


def _pair(line: bytes) -> tuple[str, str]:
    key, _, value = line.decode(errors="replace").partition(":")
    return key.strip(), value.strip()


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
