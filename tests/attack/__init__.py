"""The second user tries everything: `python -m tests.attack [NAME ...]` prints what was tried and what came of it."""
