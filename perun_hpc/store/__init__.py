"""The trace: Zarr shards written by nodes, merged into one store per job."""
