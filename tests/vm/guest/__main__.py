"""Go through the steps of a scenario, over reboots too, and say of each what came of it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from guest.shell import Failed
from guest.steps import Again, Step

PORT = Path("/dev/virtio-ports/perun-vm")
STATE = Path("/var/lib/perun-vm/state.json")


def main() -> None:
    """Run the ordered scenario from the step at which the last boot left off."""
    order = json.loads(Path("order.json").read_text())
    steps: list[Step] = importlib.import_module(f"guest.{order['scenario']}").STEPS
    if order["only"]:
        steps = [step for step in steps if step.needed or step.name in order["only"]]
    kept: dict[str, Any] = json.loads(STATE.read_text()) if STATE.exists() else {"next": 0, "kept": {}}
    while not PORT.exists():
        time.sleep(0.2)
    with PORT.open("wb", buffering=0) as port:
        _say(port, {"booted_s": round(float(Path("/proc/uptime").read_text().split()[0]), 1)})
        for number in range(kept["next"], len(steps)):
            again = _try(port, steps[number], kept["kept"])
            if again is Again.STOP:
                break
            kept["next"] = number + 1
            if again is not None:
                STATE.parent.mkdir(parents=True, exist_ok=True)
                STATE.write_text(json.dumps(kept))
                os.sync()
                _say(port, {"again": again.value})
                subprocess.run(["systemctl", "reboot" if again is Again.REBOOT else "poweroff"], check=False)
                return
        _say(port, {"end": True})
    subprocess.run(["systemctl", "poweroff"], check=False)


def _try(port: BinaryIO, step: Step, kept: dict[str, Any]) -> Again | None:
    """One step; what goes wrong in it is its result. `Again.STOP` where the others rest on it."""
    began = time.monotonic()
    found: dict[str, Any] = {"step": step.name, "what": step.what, "ok": True, "said": []}
    again = None
    try:
        again = step.do(kept, found["said"])
    except Failed as error:
        found.update(ok=False, error=str(error))
    except Exception:  # the guest's own fault is said like any other: nobody sees its screen
        found.update(ok=False, error=traceback.format_exc()[-1500:])
    found["seconds"] = round(time.monotonic() - began, 1)
    if not found["ok"]:
        found["state"] = _surroundings()
    _say(port, found)
    return Again.STOP if not found["ok"] and step.needed else again


def _surroundings() -> list[str]:
    """The last lines of what was logged, for whoever looks for the reason."""
    lines: list[str] = []
    for command in (
        ["sinfo"],
        ["squeue", "-a"],
        ["journalctl", "-n", "25", "-o", "cat", "--no-pager", "-u", "perun-agent", "-u", "perun-collect"],
        ["journalctl", "-n", "30", "-o", "cat", "--no-pager", "-p", "warning"],
        ["tail", "-n", "15", "/var/log/slurm/slurmd.log"],
        ["tail", "-n", "15", "/var/log/slurm/slurmctld.log"],
    ):
        lines.append(f"$ {' '.join(command)}")
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            lines += (done.stdout + done.stderr).splitlines()
        except subprocess.TimeoutExpired:
            lines.append("no end after 20 s")
    return lines


def _say(port: BinaryIO, words: dict[str, Any]) -> None:
    port.write(json.dumps(words).encode() + b"\n")


if __name__ == "__main__":
    main()
