"""How often the printed bounds hold: `python -m bench.coverage` prints the table of docs/method.md.

`physics` draws nodes whose power comes from what the rules cannot see, `sensors` shows it as sensors would, `node` runs
jobs on such a node and gives what is shown to the product's own engine, `kinds` are the kinds of case, `verdict` holds
what the engine prints against the hidden joules.
"""
