"""Beside setup.cfg, which says everything else: the wheel holds three small C parts, compiled where it is made.

Without make or a C compiler the wheel is one without them, for any machine: `perun monitor` samples in Python, marking
takes twice as long, and marked calls are not packed.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
PARTS = tuple(
    Path("perun_hpc") / part for part in ("backend/perun-sample", "inject/perun-pack.so", "inject/mark.abi3.so")
)


class BuildPy(build_py):
    """Python files, and the C parts beside them."""

    def run(self):
        """As of setuptools; then compile."""
        super().run()
        targets = [Path(self.build_lib).resolve() / part for part in PARTS]
        for target in targets:
            target.unlink(missing_ok=True)
        build = Path(self.build_lib).resolve().with_name("parts")
        command = ["make", "-s", "-C", str(HERE / "slurm"), f"BUILD={build}", *(f"{build}/{one.name}" for one in PARTS)]
        shutil.rmtree(build, ignore_errors=True)  # what is there may be another compiler's, for another machine
        settings = [f"{name}={os.environ[name]}" for name in ("CC", "RUN") if name in os.environ]
        try:
            subprocess.run([*command, *settings], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"warning: without the C parts: {error}", file=sys.stderr)
            return
        for target in targets:
            shutil.copy(build / target.name, target)

    def get_outputs(self, include_bytecode=1):
        """All that was made."""
        targets = (Path(self.build_lib) / part for part in PARTS)
        return [*super().get_outputs(include_bytecode), *(str(target) for target in targets if target.exists())]


class Wheel(bdist_wheel):
    """A wheel for one kind of machine and any Python, where the C parts are in it."""

    def finalize_options(self):
        """Whether there is a compiler says what kind of wheel it will be."""
        super().finalize_options()
        self.root_is_pure = not shutil.which(os.environ.get("CC", "cc")) or not shutil.which("make")

    def get_tag(self):
        """Python, ABI, machine."""
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


setup(cmdclass={"build_py": BuildPy, "bdist_wheel": Wheel})
