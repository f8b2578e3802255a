"""Runs at the start of the user's Python: tidies up behind the launcher, arms the rank, and hands over to the real
sitecustomize.

Whatever Python finds on PYTHONPATH runs this, Python 2 included: the syntax is of them all, and nothing here raises.
The module takes itself out of the interpreter: it ends as an ImportError of its own name, which `site` takes for
"there is no sitecustomize", or it hands over to the one that would have run without it.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.dirname(os.path.dirname(HERE))


def restore_path():
    # type: () -> dict[str, str]
    """Take this directory out of PYTHONPATH and sys.path; return the launcher's settings, which leave the environment
    too."""
    settings = {}
    for key in list(os.environ):
        if key.startswith("PERUN_") and key[len("PERUN_") :] in (
            "PID", "ORIG_PYTHONPATH", "SOCKET", "JOB", "STEP", "RANK", "LOCAL_RANK", "NTASKS", "NNODES",
            "PERIOD_MS", "RESOLUTION_MS", "OPTIONS", "OWNER", "LATE",
        ):  # fmt: skip
            settings[key] = os.environ.pop(key)
    parts = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # An empty entry is the current directory: every one that was there stays.
    rest = [part for part in parts if not part or os.path.abspath(part) != HERE]
    if rest:
        os.environ["PYTHONPATH"] = os.pathsep.join(rest)
    elif "PERUN_ORIG_PYTHONPATH" in settings:
        os.environ["PYTHONPATH"] = settings["PERUN_ORIG_PYTHONPATH"]
    else:
        os.environ.pop("PYTHONPATH", None)
    sys.path[:] = [part for part in sys.path if os.path.abspath(part) != HERE]
    sys.path_importer_cache.pop(HERE, None)
    return settings


class PackageFinder:
    """Finds `perun_hpc` beside this directory when the user's own environment has none; stands last on
    sys.meta_path."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        # type: (str, object, object) -> object
        """The package's spec; None for every other module."""
        if name != "perun_hpc":
            return None
        from _frozen_importlib import ModuleSpec  # importlib is a module like others, which may be the program's own
        from _frozen_importlib_external import SourceFileLoader

        init = os.path.join(PACKAGE, "__init__.py")
        spec = ModuleSpec(name, SourceFileLoader(name, init), origin=init, is_package=True)
        spec.has_location = True
        spec.submodule_search_locations = [PACKAGE]
        return spec


def arm(settings):
    # type: (dict[str, str]) -> None
    """Prepare this process as the rank it was started to be; a child of it, or an old Python, is left as it is."""
    if sys.version_info < (3, 9) or settings.get("PERUN_PID") != str(os.getpid()):
        return
    sys.meta_path.append(PackageFinder)  # type: ignore[arg-type]
    try:
        from perun_hpc.inject import closed

        closed.load("perun_hpc.inject.rank").arm(settings)
    except Exception:  # whatever is wrong with us is not the user's concern
        sys.meta_path.remove(PackageFinder)  # type: ignore[arg-type]


def chain():
    # type: () -> None
    """Run the sitecustomize that this one hid; raises what that raises, ImportError if there is none."""
    own = sys.modules.pop("sitecustomize", None)
    if sys.version_info < (3,):
        import imp

        found = imp.find_module("sitecustomize", sys.path)
        imp.load_module("sitecustomize", *found)
        return
    from _frozen_importlib_external import PathFinder

    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        if own is not None:
            sys.modules["sitecustomize"] = own  # the import system takes it away itself when this import fails
        raise ImportError("No module named 'sitecustomize'", name="sitecustomize")
    from _frozen_importlib import module_from_spec

    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


arm(restore_path())
chain()
