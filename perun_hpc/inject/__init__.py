"""The directory that the launcher puts on PYTHONPATH; `sitecustomize.py` in it is what the user's Python runs at its
start."""
