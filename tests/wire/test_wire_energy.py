"""The energy plugin, loaded as Slurm loads it, beside files as the agent writes them and as nobody should."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.agent.figure import MOST, OF_JOB, Figure, packed
from perun_hpc.doctor import energy
from perun_hpc.slurm.conf import Config

from .sandbox import Sandbox

S = 1_000_000_000
BLANK = ("blank", "blank")
BATCH, INTERACTIVE = 0xFFFF_FFFB, 0xFFFF_FFFA
"""slurm.h's numbers of these steps."""


def asked(sandbox: Sandbox, title: str = "slurmstepd: [5.extern]", *more: str, program: str = "ask") -> tuple[str, str]:
    """Energy in J and watts that Slurm would be given in a process of this title."""
    words = [title, *more] if title else []
    command = [sandbox.built / program, sandbox.built / "acct_gather_energy_perun.so", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    code, sensors, energy, watts, *_ = done.stdout.split()
    assert (code, sensors) == ("0", "1")
    return energy, watts


def put(sandbox: Sandbox, data: bytes) -> Path:
    path = sandbox.run_dir / "slurm.figures"
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def figure(energy_j: float, watts: float = 0, age_s: float = -600, counts_s: float = 600) -> Figure:
    """One whose moment is to come, unless `age_s` says otherwise: it does not go on yet."""
    now_ns = time.monotonic_ns()
    at_ns = now_ns - int(age_s * S)
    return Figure(int(energy_j * 1e6), at_ns, int(watts * 1e6), at_ns + int(counts_s * S))


def test_the_external_step_has_the_jobs_figure_others_their_own_and_slurmd_the_nodes(sandbox: Sandbox) -> None:
    steps: Sequence[tuple[int, int, Figure]] = [
        (4, OF_JOB, figure(1)),
        (5, OF_JOB, figure(111, 20)),
        (5, 0, figure(50)),
        (5, BATCH, figure(7)),
        (5, INTERACTIVE, figure(8)),
        (5, 12, figure(60)),
    ]
    put(sandbox, packed(figure(9000, 250), steps, 1))
    titles = {
        "slurmstepd: [5.extern]": ("111", "20"),
        "slurmstepd: [5.0]": ("50", "0"),
        "slurmstepd: [5.batch]": ("7", "0"),
        "slurmstepd: [5.interactive]": ("8", "0"),
        "slurmstepd: [5.12+1]": ("60", "0"),
        "slurmstepd: [5.1]": BLANK,
        "slurmstepd: [6.extern]": BLANK,
        "slurmstepd: [55.0]": BLANK,
        "slurmstepd": BLANK,
        "slurmd": BLANK,
    }
    assert {title: asked(sandbox, title) for title in titles} == titles
    (sandbox.built / "slurmd").unlink(missing_ok=True)
    os.link(sandbox.built / "ask", sandbox.built / "slurmd")
    energy, watts = asked(sandbox, "", program="slurmd")
    assert energy == "9000"
    assert watts == "250"
    put(sandbox, packed(figure(9000), steps, 2))
    assert asked(sandbox, "", program="slurmd") == ("9000", "blank"), "a power that is not known is no 0 W"


def test_energy_goes_on_with_the_power_until_the_figure_counts_no_more(sandbox: Sandbox) -> None:
    put(sandbox, packed(None, [(5, OF_JOB, figure(100, 1, age_s=200, counts_s=600))], 1))
    energy, watts = asked(sandbox)
    assert 300 <= int(energy) <= 400
    assert watts == "1"
    put(sandbox, packed(None, [(5, OF_JOB, figure(100, 1, age_s=200, counts_s=199))], 2))
    assert asked(sandbox) == BLANK


def profiled(sandbox: Sandbox, title: str) -> list[str]:
    """What slurmstepd's profile plugin is given in three seconds."""
    words = [str(sandbox.built / "profile"), str(sandbox.built / "acct_gather_energy_perun.so"), "3"]
    done = subprocess.run(
        ["bash", "-c", 'exec -a "$0" "$@"', title, *words], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.splitlines()


def test_a_profile_has_the_energy_and_the_mean_power_since_the_sample_before(sandbox: Sandbox) -> None:
    put(sandbox, packed(None, [(5, 0, figure(100, 50, age_s=0))], 1))
    created, *samples = profiled(sandbox, "slurmstepd: [5.0]")
    assert created == "Energy -1 Energy:1 Power:1"
    assert len(samples) == 2
    for before, line in zip((100, 150), samples, strict=True):
        series, energy_j, power_w, timed = map(int, line.split())
        assert (series, timed) == (7, 1)
        assert before < energy_j <= before + 100
        assert 20 <= power_w <= 100
    assert profiled(sandbox, "slurmstepd: [5.1]") == [], "what is not known is no sample"


def test_a_file_that_is_not_whole_is_a_blank(sandbox: Sandbox) -> None:
    whole = packed(None, [(5, OF_JOB, figure(111, 20))], 1)
    path = put(sandbox, whole)
    assert asked(sandbox) == ("111", "20")
    for length in (0, 1, 47, 48, 95):
        put(sandbox, whole[:length])
        assert asked(sandbox) == BLANK
    path.unlink()
    assert asked(sandbox) == BLANK
    path.mkdir()
    assert asked(sandbox) == BLANK
    path.rmdir()
    path.symlink_to(sandbox.root / "elsewhere")
    (sandbox.root / "elsewhere").write_bytes(whole)
    assert asked(sandbox) == BLANK


def test_every_flipped_bit_is_noticed(sandbox: Sandbox) -> None:
    whole = packed(None, [(5, OF_JOB, figure(111, 20))], 1)
    for at in range(len(whole)):
        put(sandbox, bytes((*whole[:at], whole[at] ^ 0x10, *whole[at + 1 :])))
        assert asked(sandbox) == BLANK, f"byte {at}"


@pytest.mark.skipif(os.getuid() != 0, reason="gives files to others")
def test_a_file_that_others_could_have_written_is_a_blank(sandbox: Sandbox) -> None:
    path = put(sandbox, packed(None, [(5, OF_JOB, figure(111, 20))], 1))
    path.chmod(0o620)
    assert asked(sandbox) == BLANK
    path.chmod(0o600)
    os.chown(path, 2001, 2001)
    assert asked(sandbox) == BLANK


def test_of_more_jobs_than_there_is_room_for_the_later_ones_are_blanks(sandbox: Sandbox) -> None:
    jobs = [(number, OF_JOB, figure(number)) for number in range(1, MOST + 100)]
    put(sandbox, packed(figure(1), jobs, 1))
    assert asked(sandbox, f"slurmstepd: [{MOST - 1}.extern]") == (str(MOST - 1), "0")
    assert asked(sandbox, f"slurmstepd: [{MOST}.extern]") == BLANK


def told(sandbox: Sandbox, path: Path, contents: Sequence[bytes], calls: int) -> tuple[tuple[str, str], int]:
    """What a reader is told last while the file is rewritten all the time, and how many blanks it was told."""
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, contents[0], 0)
    programs = [str(sandbox.built / one) for one in ("ask", "acct_gather_energy_perun.so")]
    reader = subprocess.Popen([*programs, "slurmstepd: [5.extern]", str(calls)], stdout=subprocess.PIPE, text=True)
    while reader.poll() is None:
        for one in contents:
            os.pwrite(descriptor, one, 0)
    os.close(descriptor)
    assert reader.stdout is not None
    _, _, energy, watts, _, blanks = reader.stdout.read().split()
    return (energy, watts), int(blanks)


def test_a_reader_sees_whole_figures_while_the_file_is_rewritten(sandbox: Sandbox) -> None:
    """The writer's two contents differ in every field; whatever a reader is told is of one of them."""
    path = put(sandbox, b"")
    first = packed(None, [(5, OF_JOB, figure(1_000, 1))] * 600, 1)
    second = packed(None, [(5, OF_JOB, figure(2_000, 2, counts_s=500))] * 600, 2)
    figures, _ = told(sandbox, path, (first, second), 3000)
    assert figures in (BLANK, ("1000", "1"), ("2000", "2"))


def test_a_job_whose_place_in_the_file_changes_is_found_all_the_while(sandbox: Sandbox) -> None:
    """Others begin and end: what stood behind stands in front, which a reader may have passed by then."""
    path, others = put(sandbox, b""), [(job, OF_JOB, figure(1)) for job in range(100, 1100)]
    contents = []
    for sequence, at in enumerate((900, 100, 500), 1):
        contents.append(packed(None, [*others[:at], (5, OF_JOB, figure(111, 20)), *others[at:]], sequence))
    for _ in range(5):  # a writer that has to wait for a CPU leaves half of a file, which nobody can read
        seen = told(sandbox, path, contents, 20_000)
        if seen == (("111", "20"), 0):
            break
    assert seen == (("111", "20"), 0)


def test_a_job_that_is_not_in_a_whole_file_any_more_is_a_blank(sandbox: Sandbox) -> None:
    path = put(sandbox, packed(None, [(5, OF_JOB, figure(100, 50, age_s=0))], 1))
    command = [*(str(sandbox.built / one) for one in ("profile", "acct_gather_energy_perun.so")), "4"]
    words = ["bash", "-c", 'exec -a "$0" "$@"', "slurmstepd: [5.extern]", *command]
    reader = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    time.sleep(1.5)
    path.write_bytes(packed(None, [(4, OF_JOB, figure(1))], 2))
    assert reader.stdout is not None
    assert len(reader.stdout.read().splitlines()) < 4
    reader.wait()


def test_a_file_that_somebody_closed_is_opened_again_and_anothers_left_alone(sandbox: Sandbox) -> None:
    put(sandbox, packed(None, [(5, OF_JOB, figure(111, 20))], 1))
    assert asked(sandbox, "slurmstepd: [5.extern]", "2", "reuse") == ("111", "20")


def test_less_than_a_joule_is_no_0(sandbox: Sandbox) -> None:
    put(sandbox, packed(None, [(5, OF_JOB, figure(0.9)), (5, 0, figure(1))], 1))
    assert asked(sandbox) == BLANK
    assert asked(sandbox, "slurmstepd: [5.0]") == ("1", "0")


def test_the_doctor_knows_of_which_slurm_a_file_is(sandbox: Sandbox) -> None:
    def looked_at(**said: str) -> Any:
        return energy.plugin(Config({name.lower(): (value,) for name, value in said.items()}))

    number = int(
        re.findall(r"SLURM_VERSION_NUMBER (0x\w+)", Path("/usr/include/slurm/slurm_version.h").read_text())[0], 16
    )
    own, built = energy.version_of(number), str(sandbox.built)
    assert looked_at(PluginDir=f"/nowhere:{built}", SLURM_VERSION=own) == {
        "path": f"{built}/acct_gather_energy_perun.so",
        "problem": "",
        "leftovers": [],
    }
    (sandbox.root / "acct_gather.conf").write_text("# EnergyX=1\n ENERGYIPMIFrequency=10\nProfileHDF5Dir=/x\n")
    conf = str(sandbox.root / "slurm.conf")
    assert looked_at(PluginDir=built, SLURM_VERSION=own, SLURM_CONF=conf)["leftovers"] == ["ENERGYIPMIFrequency"]
    assert (
        looked_at(PluginDir=built, SLURM_VERSION="99.11.1")["problem"] == f"is of Slurm {own}, and Slurm 99.11.1 runs"
    )
    assert looked_at(PluginDir="/nowhere", SLURM_VERSION=own)["problem"] == "is not there"
    (sandbox.run_dir / "acct_gather_energy_perun.so").write_text("something")
    assert looked_at(PluginDir=str(sandbox.run_dir), SLURM_VERSION=own)["problem"] == "is another one than perun's"


def test_titles_that_are_no_steps_are_not_taken_for_one(sandbox: Sandbox) -> None:
    put(sandbox, packed(None, [(5, OF_JOB, figure(111)), (5, 0, figure(50)), (0, 7, figure(1))], 1))
    for title in ("slurmstepd", "slurmstepd: [5]", "slurmstepd: [0.7]", "slurmstepd: [5.0", "slurmstepd: [-5.0]"):
        assert asked(sandbox, title) == BLANK
    for title in ("slurmstepd: [99999999999.0]", "slurmstepd: [5.]", "slurmstepd: [5.x]", "[5.extern]"):
        assert asked(sandbox, title) == BLANK
