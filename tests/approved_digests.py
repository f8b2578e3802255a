"""Runs a Python program as a host in FIPS mode does: MD5 and SHA-1 are refused unless they are said to be no security.

`python -I approved_digests.py PYTHON -I -m MODULE ARGUMENTS`, with `OPENSSL_CONF` naming a file as `CONFIGURATION`. The
provider that Debian 12 lacks is stood in for from both sides: OpenSSL has no digest at all, and of Python's own ones
these two are refused as RHEL's Python refuses them. What asks `hashlib` for anything but SHA-2 fails as there.
"""

from __future__ import annotations

import runpy
import sys
import types
from typing import Any

CONFIGURATION = """
openssl_conf = init
[init]
providers = providers
alg_section = algorithms
[providers]
default = on
base = on
[on]
activate = 1
[algorithms]
default_properties = provider=base
"""


def refuse(name: str) -> None:
    """Put a module in place of Python's own digest."""
    own = getattr(__import__(f"_{name}"), name)

    def refused(data: bytes = b"", *, usedforsecurity: bool = True) -> Any:
        if usedforsecurity:
            raise ValueError(f"[digital envelope routines] unsupported: {name}")
        return own(data)

    stand_in = types.ModuleType(f"_{name}")
    setattr(stand_in, name, refused)
    sys.modules[f"_{name}"] = stand_in


if __name__ == "__main__":
    for digest in ("md5", "sha1"):
        refuse(digest)
    _, _, isolated, flag, module, *arguments = sys.argv
    assert (isolated, flag) == ("-I", "-m"), sys.argv
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
