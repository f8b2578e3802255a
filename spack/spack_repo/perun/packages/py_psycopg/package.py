"""Psycopg 3, which Spack's own packages lack: what a ledger in PostgreSQL is reached with."""

from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *


class PyPsycopg(PythonPackage):
    """PostgreSQL database adapter for Python."""

    homepage = "https://psycopg.org/psycopg3/"
    pypi = "psycopg/psycopg-3.3.9.tar.gz"

    license("LGPL-3.0-only")

    version("3.3.9", sha256="87c1d85c3e0e88e811d3c0b3808f947bd967c6faf34af6cd86fd021f77793d6c")

    depends_on("python@3.10:", type=("build", "run"))
    depends_on("py-setuptools@80.3.1:", type="build")
    depends_on("py-typing-extensions@4.6:", type=("build", "run"), when="^python@:3.12")
    # Without it psycopg looks for the system's libpq, which need not be there.
    depends_on("py-psycopg-c@3.3.9", type=("build", "run"), when="@3.3.9")
