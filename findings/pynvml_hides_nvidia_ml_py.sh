#!/bin/sh
# nvidia-ml-py, NVIDIA's own package, brings the module pynvml.py; the distribution pynvml brought a package pynvml/ until its
# version 11. Where both are installed, in whichever order and without a word of pip, Python imports the package: programs that
# need nvidia-ml-py 13 get bindings of 2022, which know no power of an instant and no superchip's module.
# Needs: python3 with venv. Exits 0 while this holds.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
for order in "pynvml==11.5.0 nvidia-ml-py==13.590.44" "nvidia-ml-py==13.590.44 pynvml==11.5.0"; do
    rm -rf env
    python3 -m venv env
    for package in $order; do
        env/bin/pip install -q --disable-pip-version-check "$package" 2>/dev/null
    done
    env/bin/pip check >/dev/null
    env/bin/python -c "
from importlib.metadata import version
import pynvml
print('nvidia-ml-py', version('nvidia-ml-py'), 'installed;', 'a package' if hasattr(pynvml, '__path__') else 'a module',
      'with' if hasattr(pynvml, 'NVML_POWER_SCOPE_MODULE') else 'without', 'power scopes is imported')"
done | tee seen
line="nvidia-ml-py 13.590.44 installed; a package without power scopes is imported"
printf '%s\n%s\n' "$line" "$line" >expected
cmp -s seen expected || { echo "behaves otherwise now"; exit 1; }
