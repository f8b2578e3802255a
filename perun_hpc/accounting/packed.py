"""A record's JSON as the ledger in SQLite keeps it: a byte that says how it was packed, then a deflated stream.

The stream begins with words known beforehand: the names of a record's fields, which are most of it. What was packed
before with `_WORDS` is read by the same words only: they never change, other ones would get a number of their own.
"""

from __future__ import annotations

import zlib

_FIRST = b"\x01"
_LEVEL = 6
_RAW = -15
"""Deflate alone, with the largest window, and no head of zlib's."""
_WORDS = (
    b'measured modelled estimated simulated CANCELLED FAILED TIMEOUT "step_id":,"tasks":,"nodes":,"start_ns":,'
    b'"end_ns":,"energy_uj":,"u_uj":,"cpu_ns":,"steps":,"why":"step_id":,"name":,"calls":,"ranks":,"time_ns":,'
    b'"time_min_ns":,"time_max_ns":,"energy_uj":,"u_uj":,"method":"node":,"domain":,"energy_uj":,"held_ns":,"i'
    b'dle_ns":,"busy_ns":,"watched_ns":,"mem_peak_b":"facility_uj":,"co2_location_g":,"co2_market_g":,"cost":,'
    b'"currency":,"lower_bound":,"sources":{"schema":"perun.record/1","revision":0,"cluster":"","job_id":0,"re'
    b'start_count":0,"submit_s":0,"status":"complete","provenance":"measured","energy_uj":0,"u_uj":0,"start_ns'
    b'":0,"end_ns":0,"inputs":"","sluid":null,"array_job_id":null,"array_task_id":null,"het_job_id":null,"het_'
    b'offset":null,"name":"","uid":0,"gid":0,"user":"","account":"","partition":"","qos":"","nodelist":"","num'
    b'_nodes":0,"cpus":0,"gpus":0,"state":"COMPLETED","exit_code":0,"exit_signal":0,"suspended_s":0,"time_limi'
    b't_s":0,"cpu_ns":0,"mem_peak_b":0,"coverage":1.0,"static_uj":0,"dynamic_uj":0,"idle_uj":0,"suspended_uj":'
    b'0,"modelled_uj":0,"estimated_uj":0,"wasted_uj":0,"power_mean_mw":0,"power_peak_mw":null,"gpu_held_s":0,"'
    b'gpu_idle_s":null,"missing":[],"missing_nodes":[],"components":[{"component":"cpu","energy_uj":0,"u_uj":0'
    b',"static_uj":0,"dynamic_uj":0,"idle_uj":0,"suspended_uj":0,"modelled_uj":0,"covered_ns":0,"gap_ns":0,"do'
    b'mains":0,"provenance":"measured","methods":["exclusive"],"doubts":[{"cause":"cpu","uj":0}]},{"component"'
    b':"dram","energy_uj":0,"u_uj":0,"static_uj":0,"dynamic_uj":0,"idle_uj":0,"suspended_uj":0,"modelled_uj":0'
    b',"covered_ns":0,"gap_ns":0,"domains":0,"provenance":"measured","methods":["exclusive"],"doubts":[{"cause'
    b'":"dram","uj":0}]}],"nodes":[{"node":"","state":"closed","why":null,"energy_uj":0,"u_uj":0,"node_uj":0,"'
    b'start_ns":0,"end_ns":0,"late_ns":0,"coverage":1.0,"cpu_ns":0,"cpus":0,"mem_peak_b":0,"peak_mw":null,"rev'
    b'ision":0,"digest":""},{"node":"","state":"closed","why":null,"energy_uj":0,"u_uj":0,"node_uj":0,"start_n'
    b's":0,"end_ns":0,"late_ns":0,"coverage":1.0,"cpu_ns":0,"cpus":0,"mem_peak_b":0,"peak_mw":null,"revision":'
    b'0,"digest":""}],"devices":[],"steps":[],"ranks":[],"regions":[],"shares":[],"footprint":null,"policy_has'
    b'h":"sha256:","perun_version":"","trace_bytes":0,"simulated":false,"notes":[],"agent_cpu_ns":0,"agent_rss'
    b'_b":null,"mem_asked_b":null,"conditions":[]}'
)  # fmt: skip


def pack(text: str) -> bytes:
    """Return the packed form of a record's JSON."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW, zdict=_WORDS)
    return _FIRST + packer.compress(text.encode()) + packer.flush()


def unpack(body: str | bytes) -> str:
    """Return a record's JSON: packed, or as PostgreSQL and older ledgers hold it.

    Raises
    ------
    ValueError
        Where it is damaged, or packed in a way that this version does not know.
    """
    if isinstance(body, str):
        return body
    if body[:1] != _FIRST:
        raise ValueError(f"packed in an unknown way ({body[:1]!r})")
    unpacker = zlib.decompressobj(_RAW, zdict=_WORDS)
    try:
        text = unpacker.decompress(body[1:]) + unpacker.flush()
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not unpacker.eof:
        raise ValueError("cut short")
    return text.decode()
