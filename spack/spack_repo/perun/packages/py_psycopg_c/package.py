"""The part of Psycopg 3 that is linked against libpq."""

from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *


class PyPsycopgC(PythonPackage):
    """PostgreSQL database adapter for Python: the implementation in C."""

    homepage = "https://psycopg.org/psycopg3/"
    pypi = "psycopg_c/psycopg_c-3.3.9.tar.gz"

    # It cannot be imported alone, only through psycopg.
    import_modules = []

    license("LGPL-3.0-only")

    version("3.3.9", sha256="591fcbcb40e089235a7f096b9e887e71ccae78fd337aba198d918e33707c5e01")

    depends_on("c", type="build")
    depends_on("python@3.10:", type=("build", "link", "run"))
    depends_on("py-setuptools@80.3.1:", type="build")
    depends_on("postgresql@10:", type=("build", "link", "run"))
