"""How to get a package that is not installed where perun runs."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def remedy(requirement: str) -> str:
    """What to type for a package of PyPI, `requirement` as a shell takes it.

    The .deb and the .rpm bring no pip, and nothing may be put into their directory: one of the user's own is
    read before it.
    """
    if find_spec("pip") is not None:
        return f"pip install {requirement}"
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return f"{python} -m pip install --target DIR {requirement}, then export PYTHONPATH=DIR"
