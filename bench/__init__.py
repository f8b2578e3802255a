"""The benchmark suite: our figures beside those of named peers, measured in the same run, interleaved.

`python -m bench [NAME ...] [--json]`; each NAME is a module of this package with `run() -> Iterator[Result]`.
"""
