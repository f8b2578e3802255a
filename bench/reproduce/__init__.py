"""Published measurements by perun's own functions: `make reproduce` prints the tables of docs/method.md.

Each module reads data that others published, computes with what the product computes with, and says what was published,
what perun makes of it, its bound, and whether the bound holds. `source` fetches a file at a pinned commit when it is
asked for and keeps it below build/; `rows` is what a line of the tables is. `wattmeter`, `gpu_sensor` and `specpower`
read public repositories; `pm100` and `iriscast` read data sets too large to be fetched without being asked, and are
unrun until somebody puts these where they say.
"""
