"""Run a module of this installation: `python -I -S PREFIX/libexec/perun/isolated.py MODULE [ARGUMENT ...]`.

For what root starts: with -S no `.pth` file of any package runs, and packages come from this prefix alone.
"""

import runpy
import sys

prefix = __file__.rpartition("/libexec/perun/")[0]
sys.path.append(f"{prefix}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages")
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
