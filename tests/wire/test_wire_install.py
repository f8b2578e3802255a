"""What `make install` puts into the prefix: hardened programs, and always a whole one, also while it replaces them."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from perun_hpc.doctor import energy
from perun_hpc.slurm.conf import Config

from .sandbox import JOB, SLURM

UPGRADES = 200


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs as an administrator builds them, for run-time directories of this test's own."""
    root = tmp_path_factory.mktemp("install")
    (root / "etc").mkdir()
    (root / "etc" / "disable").touch()
    install(root)
    return root


def install(root: Path, target: str = "install", *more: str) -> None:
    paths = " ".join(f'-DPERUN_{name.upper()}_DIR=\\"{root}/{name}\\"' for name in ("run", "etc", "spool"))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    command = ["make", "-s", "-C", str(SLURM), target, f"BUILD={root}/build", f"PATHS={paths}", "PREFIX=/prefix"]
    subprocess.run([*command, f"DESTDIR={root}", *more], check=True, env=environment)


def test_an_upgrade_never_leaves_the_prefix_without_a_hook(built: Path) -> None:
    hooks = [built / "prefix" / "libexec" / "perun" / name for name in ("prolog", "epilog")]
    over = threading.Event()
    failures: list[str] = []
    started = 0

    def jobs() -> None:
        nonlocal started
        while not over.is_set():
            for hook in hooks:
                try:
                    done = subprocess.run([hook], env=JOB, stdin=subprocess.DEVNULL, check=False)
                except OSError as error:
                    failures.append(str(error))
                else:
                    started += 1
                    if done.returncode:
                        failures.append(f"{hook}: exit code {done.returncode}")

    thread = threading.Thread(target=jobs)
    thread.start()
    try:
        for _ in range(UPGRADES):
            install(built)
    finally:
        over.set()
        thread.join()
    assert not failures, f"{len(failures)} of {started}: {failures[:3]}"
    assert started > UPGRADES
    assert {path.name for path in hooks[0].parent.iterdir()} == {
        "prolog",
        "epilog",
        "epilogslurmctld",
        "perun-launch",
        "isolated.py",
        "mail",
    }


@pytest.mark.parametrize("name", ["libexec/perun/prolog", "libexec/perun/perun-launch", "lib/perun/perun_spank.so"])
def test_the_programs_are_position_independent_and_their_tables_read_only(built: Path, name: str) -> None:
    shown = subprocess.run(
        ["readelf", "-hldW", built / "prefix" / name], capture_output=True, text=True, check=True
    ).stdout
    assert "DYN (" in shown
    assert "GNU_RELRO" in shown
    assert "BIND_NOW" in shown
    (stack,) = (line for line in shown.splitlines() if "GNU_STACK" in line)
    assert " RWE " not in stack


def test_a_node_gets_what_slurmd_and_its_tasks_open_on_its_own_disk(built: Path) -> None:
    install(built, "install-node")
    hooks = built / "usr" / "local" / "libexec" / "perun"
    assert {path.name for path in hooks.iterdir()} == {"prolog", "epilog", "epilogslurmctld", "perun-launch"}
    assert (built / "usr" / "local" / "lib" / "perun" / "perun_spank.so").is_file()
    prefix = built / "etc" / "perun" / "prefix"
    assert prefix.read_text() == "/prefix\n"
    assert prefix.stat().st_mode & 0o777 == 0o644


def test_what_root_starts_runs_no_code_of_packages_that_it_does_not_import(tmp_path: Path) -> None:
    """A line of a `.pth` file in site-packages is run by every Python that starts there without -S."""
    prefix = tmp_path / "prefix"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", prefix], check=True)
    (packages,) = prefix.glob("lib/python3*/site-packages")
    (packages / "planted.pth").write_text(f"import os; os.mkdir({str(tmp_path / 'planted')!r})\n")
    (packages / "asked_for.py").write_text("import sys; print(__name__, *sys.argv[1:], 'site' in sys.modules)\n")
    (prefix / "libexec" / "perun").mkdir(parents=True)
    isolated = prefix / "libexec" / "perun" / "isolated.py"
    shutil.copy(SLURM / "hooks" / "isolated.py", isolated)
    command = [prefix / "bin" / "python", "-I", "-S", isolated, "asked_for", "a", "b"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "__main__ a b False\n"
    assert not (tmp_path / "planted").exists()
    subprocess.run([prefix / "bin" / "python", "-I", "-m", "asked_for"], capture_output=True, check=True)
    assert (tmp_path / "planted").exists()  # so the file above was one that runs


def test_hooks_of_a_compiler_that_sets_an_rpath_run(tmp_path: Path) -> None:
    """As Spack's compiler wrapper does: glibc 2.36 ends a static-pie with an rpath by an assertion, before main."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "disable").touch()
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nexec gcc -Wl,--disable-new-dtags "-Wl,-rpath,/somewhere/lib" "$@"\n')
    compiler.chmod(0o755)
    install(tmp_path, "install", f"CC={compiler}")
    programs = tmp_path / "prefix" / "libexec" / "perun"
    for hook in ("prolog", "epilog", "epilogslurmctld"):
        assert subprocess.run([programs / hook], env=JOB, stdin=subprocess.DEVNULL, check=False).returncode == 0
    done = subprocess.run([programs / "perun-launch", "/bin/echo", "ran"], env={}, capture_output=True, text=True)
    assert done.stdout == "ran\n"


@pytest.mark.parametrize(("flag", "number"), [("-DPERUN_SLURM_VERSION=0x170b00", 0x170B00), ("", None)])
def test_a_plugin_for_a_slurm_whose_headers_are_not_here(tmp_path: Path, flag: str, number: int | None) -> None:
    """Slurm reads `plugin_version` and takes a SPANK plugin whose first two parts are its own."""
    plugin = tmp_path / "build" / "perun_spank.so"
    install(tmp_path, str(plugin), f"CFLAGS={flag}", "LDFLAGS=-Wl,-z,lazy")
    found = ctypes.c_uint.in_dll(ctypes.CDLL(str(plugin), os.RTLD_LAZY), "plugin_version").value
    release = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    year, month, *_ = release.split(".")
    assert found == number if number else found >> 8 == int(year) << 8 | int(month)


def test_the_energy_plugin_is_built_from_what_is_installed_for_this_hosts_slurm_alone(built: Path) -> None:
    """Its file of another Slurm would keep slurmctld and slurmd from starting."""
    sources = built / "prefix" / "share" / "perun" / "slurm"
    before = sorted(sources.rglob("*"))
    image = built / "image"
    place = image / "plugins"

    def make(*more: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "-s", "-C", str(sources), "install-energy", f"DESTDIR={image}", "PLUGINDIR=/plugins", *more]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    done = make()
    assert "PLUGINDIR=... is to name Slurm's PluginDir" in done.stderr
    assert done.returncode != 0
    assert not image.exists()
    place.mkdir(parents=True)
    other = make("SLURM=99.11.1")
    assert other.returncode != 0
    assert "here is 99.11.1" in other.stderr
    assert list(place.iterdir()) == []
    old = place / "acct_gather_energy_perun.so"
    old.write_text("that of the Slurm before\n")
    with old.open() as loaded:
        done = make()
        assert done.returncode == 0, done.stderr
        assert loaded.read() == "that of the Slurm before\n"  # whoever has it loaded keeps it
    assert [path.name for path in place.iterdir()] == [old.name]
    release = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    found = energy.plugin(Config({"plugindir": (str(place),), "slurm_version": (release,)}))
    assert found["problem"] == ""
    assert sorted(sources.rglob("*")) == before


def test_the_energy_plugin_goes_where_this_hosts_slurm_has_its_own(built: Path) -> None:
    command = ["make", "-s", "-C", str(SLURM), "install-energy", f"DESTDIR={built / 'none'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (place,) = re.findall(r"no directory '([^']*)'", done.stderr)
    assert Path(place.removeprefix(str(built / "none")), "accounting_storage_slurmdbd.so").exists()
