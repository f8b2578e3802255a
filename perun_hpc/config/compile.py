"""Compile the policy to JSON, for readers that must not parse YAML: `python -m perun_hpc.config.compile POLICY`.

```
{"schema": "perun.policy/1", "hash": "sha256:...", "source": PATH, "perun_version": TEXT,
 "site": {"values": {"sampling.period_ns": 1000000000, ...}, "origins": {"sampling.period_ns": "PATH:LINE", ...}},
 "partitions": {NAME: {"values", "origins"}}, "nodes": {NODE LIST: ...}, "accounts": {NAME: ...}}
```

`site` holds every field (origin "default" where the file says nothing); the others hold what the file sets. It goes to
standard output; of a broken policy nothing does, but one line per mistake to stderr, with exit code 78.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perun_hpc._version import __version__
from perun_hpc.config.policy import LayerEntry, Policy, load
from perun_hpc.config.schema import FIELDS
from perun_hpc.errors import PerunError, UsageError
from perun_hpc.process import child

SCHEMA = "perun.policy/1"


def layers_of(policy: Policy) -> dict[str, Any]:
    """What the layers of a checked policy say, as the compiled form has them."""
    return {
        "site": _compiled(
            LayerEntry(
                {**{key: field.default for key, field in FIELDS.items()}, **policy.site.values},
                {**dict.fromkeys(FIELDS, "default"), **policy.site.origins},
            )
        ),
        "partitions": {name: _compiled(entry) for name, entry in sorted(policy.partitions.items())},
        "nodes": {name: _compiled(entry) for name, entry in policy.nodes.items()},
        "accounts": {name: _compiled(entry) for name, entry in sorted(policy.accounts.items())},
    }


def compile_policy(policy: Policy) -> dict[str, Any]:
    """The compiled form of a checked policy; its hash depends on the values alone, not on where they stand."""
    layers = layers_of(policy)
    values = {
        "site": layers["site"]["values"],
        **{
            layer: [[name, entry["values"]] for name, entry in layers[layer].items()]
            for layer in ("partitions", "nodes", "accounts")
        },
    }
    from hashlib import sha256  # here: it loads OpenSSL, and commands that ask do without

    digest = sha256(json.dumps(values, separators=(",", ":")).encode()).hexdigest()
    return {
        "schema": SCHEMA,
        "hash": f"sha256:{digest}",
        "source": policy.source,
        "perun_version": __version__,
        **layers,
    }


def _compiled(entry: LayerEntry) -> dict[str, Any]:
    known = [key for key in FIELDS if key in entry.values]
    return {
        "values": {key: entry.values[key] for key in known},
        "origins": {key: entry.origins[key] for key in known},
    }


def main(argv: Sequence[str]) -> int:
    """Compile POLICY to standard output; returns the exit code. PARENT: the process whose child this is."""
    try:
        if len(argv) not in (1, 2) or not all(one.isdecimal() for one in argv[1:]):
            raise UsageError("usage: python -m perun_hpc.config.compile POLICY [PARENT]")
        if argv[1:]:
            child.begin(int(argv[1]))
        json.dump(compile_policy(load(Path(argv[0]))), sys.stdout, indent=1)
        print(flush=True)
    except PerunError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
