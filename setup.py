"""Beside setup.cfg, which says everything else: the wheel holds the sampler, which is compiled where it is made.

Without make or a C compiler the wheel is one without it, for any machine, and `perun monitor` samples in Python.
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
SAMPLER = Path("perun_hpc") / "backend" / "perun-sample"


class BuildPy(build_py):
    """Python files, and the sampler beside them."""

    def run(self):
        """As of setuptools; then compile."""
        super().run()
        target = Path(self.build_lib).resolve() / SAMPLER
        target.unlink(missing_ok=True)
        build = Path(self.build_lib).resolve().with_name("sample")
        command = ["make", "-s", "-C", str(HERE / "slurm"), f"BUILD={build}", f"{build}/perun-sample"]
        settings = [f"{name}={os.environ[name]}" for name in ("CC", "RUN") if name in os.environ]
        try:
            subprocess.run([*command, *settings], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"warning: without perun-sample, which {error}", file=sys.stderr)
            return
        shutil.copy(build / "perun-sample", target)

    def get_outputs(self, include_bytecode=1):
        """All that was made."""
        target = Path(self.build_lib) / SAMPLER
        return [*super().get_outputs(include_bytecode), *([str(target)] if target.exists() else [])]


class Wheel(bdist_wheel):
    """A wheel for one kind of machine and any Python, where the sampler is in it."""

    def finalize_options(self):
        """Whether there is a compiler says what kind of wheel it will be."""
        super().finalize_options()
        self.root_is_pure = not shutil.which(os.environ.get("CC", "cc")) or not shutil.which("make")

    def get_tag(self):
        """Python, ABI, machine."""
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


setup(cmdclass={"build_py": BuildPy, "bdist_wheel": Wheel})
