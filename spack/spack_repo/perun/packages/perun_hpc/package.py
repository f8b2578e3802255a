"""perun-hpc for Spack 1.0 and newer: Python package, hooks, launcher and SPANK plugin."""

from pathlib import Path

from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *

CHECKOUT = Path(__file__).resolve().parents[5]


class PerunHpc(PythonPackage):
    """Performance and energy of every Slurm job, measured automatically."""

    # The recipe lies in the sources that it builds.
    git = f"file://{CHECKOUT}"

    license("Apache-2.0")

    version("main", branch="main")

    variant("slurm", default=True, description="hooks, launcher and SPANK plugin")
    variant("site", default=True, description="the ledger, and reports as pages")
    variant("postgresql", default=False, when="+site", description="a ledger in PostgreSQL")
    variant("mpi", default=False, description="MPI for `perun monitor` outside of Slurm")

    # Without them the Python package is one without its C parts, and says nothing of it.
    depends_on("c", type="build")
    depends_on("gmake", type="build")
    depends_on("slurm@22-05:", type=("build", "link"), when="+slurm")

    depends_on("python@3.11:", type=("build", "run"))
    depends_on("py-setuptools@77:", type="build")
    depends_on("py-numpy@1.26:", type=("build", "run"))
    depends_on("py-zarr@3.1:", type=("build", "run"))
    depends_on("py-psutil@5.9:", type=("build", "run"))
    depends_on("py-pyyaml@6.0:", type=("build", "run"))
    depends_on("py-nvidia-ml-py@12:", type=("build", "run"))
    depends_on("py-matplotlib@3.8:", type=("build", "run"), when="+site")
    depends_on("py-psycopg@3.1:", type=("build", "run"), when="+postgresql")
    depends_on("py-mpi4py@4.0:", type=("build", "run"), when="+mpi")

    @run_before("install", when="+slurm")
    def demand_the_clusters_slurm(self):
        """The plugin fits the Slurm that it was compiled against: the one that runs here."""
        if not self.spec["slurm"].external:
            raise InstallError(
                "perun-hpc+slurm is compiled against the Slurm that runs on this cluster: name"
                " that one in packages.yaml as an external package, with `buildable: false`, or"
                " build perun-hpc~slurm"
            )

    @run_after("install")
    def complete_the_prefix(self):
        """Make the prefix a virtual environment that finds the dependencies through a .pth file.

        Hooks, units and cron run PREFIX/bin/python -I and PREFIX/bin/perun without `spack load`.
        """
        python = self.spec["python"]
        Path(self.prefix, "pyvenv.cfg").write_text(
            f"home = {python.command.path.rpartition('/')[0]}\n"
        )
        Path(self.prefix.bin, "python").symlink_to(python.command.path)
        filter_file(r"^#!.*", f"#!{self.prefix.bin.python}", self.prefix.bin.perun)
        # Debian's Python names another directory (dist-packages) than pip has installed to.
        installed = next(Path(self.prefix).glob("lib/python*/site-packages/perun_hpc")).parent
        purelib = installed.relative_to(self.prefix)
        needed = [
            Path(node.prefix, purelib) for node in self.spec.traverse(deptype="run", root=False)
        ]
        existing = dict.fromkeys(path for path in needed if path.is_dir())
        (installed / "spack.pth").write_text("".join(f"{path}\n" for path in existing))

    @run_after("install", when="+slurm")
    def install_slurm_parts(self):
        """Build and install the C parts beside the Python package."""
        make("-C", "slurm", "install", f"PREFIX={self.prefix}")
