"""Commands of the guest, and what it waits for."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class Failed(Exception):
    """Something is not as it must be; the text says what was found."""


def run(*words: str, user: str = "root", timeout: float = 120, input: str = "") -> str:
    """Run a command and return what it printed; it must succeed."""
    code, output, errors = tried(*words, user=user, timeout=timeout, input=input)
    if code != 0:
        raise Failed(f"{' '.join(words)[:200]}: exit code {code}: {(errors or output).strip()[-600:]}")
    return output


def tried(*words: str, user: str = "root", timeout: float = 120, input: str = "") -> tuple[int, str, str]:
    """Run a command; its exit code, output and errors."""
    print(f"{user}: {' '.join(words)}"[:300], flush=True)
    home = "/root" if user == "root" else f"/home/{user}"
    line: Sequence[str] = words
    if user != "root":
        line = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *words)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/perun-hpc/bin"
    where = {"PATH": path, "HOME": home, "USER": user, "LANG": "C.UTF-8", "TERM": "dumb"}
    try:
        done = subprocess.run(
            line,
            env=where,
            cwd=home if os.path.isdir(home) else "/",  # noqa: PTH112
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(words)[:200]}: no end after {timeout:.0f} s") from None
    return done.returncode, done.stdout, done.stderr


def wait(what: str, found: Callable[[], T | None], timeout: float = 120, pause: float = 1.0) -> T:
    """Ask until there is an answer that is true; a command that fails meanwhile is no answer."""
    deadline = time.monotonic() + timeout
    last = ""
    print(f"waiting for {what}", flush=True)  # on the console
    while True:
        try:
            answer = found()
            if answer:
                return answer
        except (Failed, OSError, ValueError) as error:
            last = f" ({error})"
        if time.monotonic() > deadline:
            raise Failed(f"waited {timeout:.0f} s in vain for {what}{last}")
        time.sleep(pause)


def require(holds: object, text: str) -> None:
    """Fail with the text unless it holds."""
    if not holds:
        raise Failed(text)
