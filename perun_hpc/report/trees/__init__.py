"""Jobs and runs as trees of xarray's, with names and units: what `perun_hpc.open` and `perun_hpc.open_many` give."""
