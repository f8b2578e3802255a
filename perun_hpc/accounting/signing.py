"""Signatures of files by `ssh-keygen -Y` (OpenSSH 8.1 on): by keys that administrators have, on tokens or in an agent.

The format is OpenSSH's own (PROTOCOL.sshsig), as git uses it for commits; whoever verifies needs no perun for it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from perun_hpc.errors import AccessError, DataError, UnavailableError

NAMESPACE = "perun-month"
"""What a signature is for: one made for another purpose does not count here."""
TIMEOUT_S = 120.0
"""A key on a token waits to be touched."""


def signature_of(path: Path) -> Path:
    """Where the signature of a file lies."""
    return path.with_name(f"{path.name}.sig")


def sign(path: Path, key: Path) -> None:
    """Sign a file; the signature lies beside it. `AccessError` where that cannot be, with ssh-keygen's reason."""
    signature_of(path).unlink(missing_ok=True)
    done = _ssh_keygen(("-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(path)))
    if done.returncode:
        raise AccessError(f"{path}: not signed by {key}: {_reason(done)}: see that ssh-keygen can use the key")


def verified(path: Path, signers: Path) -> str:
    """Return who signed a file, by name.

    Parameters
    ----------
    path : the file; its signature lies beside it.
    signers : allowed signers (ssh-keygen(1)): a line for each with name and public key.

    Raises
    ------
    DataError
        Where there is no signature, it is not of this content, or by nobody of these.
    """
    signature = signature_of(path)
    if not signature.is_file():
        raise DataError(f"{signature.name} is not there: nobody signed it")
    about = ("-n", NAMESPACE, "-s", str(signature))
    named = _ssh_keygen(("-Y", "find-principals", "-s", str(signature), "-f", str(signers)))
    names = named.stdout.decode(errors="replace").split("\n")[0].split(",")
    if named.returncode or not names[0]:
        raise DataError(f"{signature.name} is by nobody whom {signers} names ({_reason(named)})")
    with path.open("rb") as content:
        done = _ssh_keygen(("-Y", "verify", "-f", str(signers), "-I", names[0], *about), content)
    if done.returncode:
        raise DataError(f"{signature.name} is not of this {path.name}: {_reason(done)}")
    return names[0]


def fingerprint(path: Path) -> str:
    """Return the key that signed a file, of which nothing else is known here; `DataError` as of `verified`."""
    signature = signature_of(path)
    if not signature.is_file():
        raise DataError(f"{signature.name} is not there: nobody signed it")
    with path.open("rb") as content:
        done = _ssh_keygen(("-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(signature)), content)
    if done.returncode:
        raise DataError(f"{signature.name} is not of this {path.name}: {_reason(done)}")
    found = re.search(rb"SHA256:\S+", done.stdout)
    return found[0].decode() if found else ""


def _ssh_keygen(words: Sequence[str], stdin: object = subprocess.DEVNULL) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            ["ssh-keygen", *words], stdin=stdin, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise UnavailableError("ssh-keygen: not installed here: install OpenSSH's client, 8.1 or newer") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"ssh-keygen: {error}: try again") from error


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else f"exit code {done.returncode}"
