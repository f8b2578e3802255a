"""Reads one backend a few times in a process of its own, prints what it saw as JSON: NAME READS PAUSE_S [ROOT [JSON]].

The JSON are parameters that the backend alone has.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from perun_hpc.backend.catalog import open_backend

name, reads, pause_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
more = json.loads(sys.argv[5]) if len(sys.argv) > 5 else {}
found = open_backend(name, Path(sys.argv[4] if len(sys.argv) > 4 else "/"), **more)
rows = []
for _ in range(reads):
    rows.append([[one.ticks, one.mono_ns, one.error] for reader in found.readers for one in reader.read()])
    time.sleep(pause_s)
back = [getattr(reader, "wanted_back", "") for reader in found.readers]
gpus = [gpu.to_json() for reader in found.readers for gpu in getattr(reader, "gpus", ())]
found.close()
print(json.dumps({
    "sensors": [sensor.to_json() for sensor in found.sensors],
    "rows": rows,
    "missing": [[one.what, one.why, one.remedy] for one in found.missing],
    "gpus": gpus,
    "back": back,
}))  # fmt: skip
