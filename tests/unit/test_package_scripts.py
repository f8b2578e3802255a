"""The package's scripts: they take nothing away from a site, and no hook from a Slurm that still runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "package/scripts/preremove.sh"
SETUP = Path(__file__).parents[2] / "package/setup.sh"


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    prefix = tmp_path / "opt/perun-hpc"
    (prefix / "libexec/perun").mkdir(parents=True)
    (prefix / "libexec/perun/prolog").write_bytes(b"\x7fELF")
    (prefix / "pyvenv.cfg").touch()
    (tmp_path / "etc").mkdir()
    (tmp_path / "hooks").mkdir()
    return prefix


def remove(prefix: Path, shown: str, written: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script on a tree of its own, with a Slurm that says `shown` (nothing: it does not answer)."""
    root = prefix.parents[1]
    (root / "etc/slurm.conf").write_text(written)
    (root / "bin").mkdir(exist_ok=True)
    scontrol = root / "bin/scontrol"
    scontrol.write_text(f"#!/bin/sh\ncat <<'END'\n{shown}\nEND\n" if shown else "#!/bin/sh\nexit 1\n")
    scontrol.chmod(0o755)
    script = root / "script"
    text = SCRIPT.read_text().replace("/opt/perun-hpc", str(prefix)).replace("/etc/slurm", str(root / "etc"))
    script.write_text(text.replace("/run/systemd/system", str(root / "none")).replace("/run/perun", str(root)))
    environ = {**os.environ, "PATH": f"{root / 'bin'}:/usr/bin:/bin"}
    return subprocess.run(["sh", str(script), "remove"], capture_output=True, text=True, env=environ)


def test_it_goes_where_no_hook_is_named(prefix: Path) -> None:
    (prefix.parents[1] / "hooks/10-site").write_text("#!/bin/sh\nexit 0\n")
    done = remove(prefix, f"Prolog = {prefix.parents[1]}/hooks/*\nEpilog = (null)\nPrologFlags = Alloc")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (prefix / "pyvenv.cfg").exists()


@pytest.mark.parametrize("how", ["by name", "in a file", "by a link", "in a script"])
def test_it_stays_while_slurm_runs_its_hooks(prefix: Path, how: str) -> None:
    hook, hooks = prefix / "libexec/perun/prolog", prefix.parents[1] / "hooks"
    shown, written = f"Prolog[0]               = {hooks}/*", ""
    if how == "by name":
        shown = f"Epilog                  = {hook}"
    elif how == "in a file":
        shown, written = "", f"prolog={hook}\n"
    elif how == "by a link":
        (hooks / "50-perun-prolog").symlink_to(hook)
    else:
        (hooks / "site").write_text(f"#!/bin/sh\nexec {hook}\n")
    done = remove(prefix, shown, written)
    assert done.returncode == 1
    assert "Slurm still runs its hooks" in done.stderr
    assert str(hook if how in ("by name", "in a file") else hooks) in done.stderr
    assert (prefix / "pyvenv.cfg").exists()


def test_a_spool_that_is_there_stays_whose_it_is(tmp_path: Path) -> None:
    # Whose the spool is, the agent runs as: `agent.service_user` may be another one than perun.
    for name in ("bin", "opt/perun-hpc", "var/spool/perun"):
        (tmp_path / name).mkdir(parents=True)
    stubs = {
        "getent": "exit 0",
        "id": "echo 77",
        "stat": 'case "$*" in */var/spool/perun) echo 991;; *) exit 1;; esac',
        "install": f'echo "$@" >>{tmp_path}/made',
    }
    for name, text in stubs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    text = SETUP.read_text().replace("/opt/perun-hpc", f"{tmp_path}/opt/perun-hpc").replace("/var/", f"{tmp_path}/var/")
    (tmp_path / "script").write_text(text)
    environ = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    done = subprocess.run(["sh", str(tmp_path / "script")], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made").read_text() == f"-d -o perun -g 77 -m 0711 {tmp_path}/var/lib/perun\n"
