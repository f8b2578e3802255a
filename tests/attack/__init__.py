"""The second user tries everything: `python -m tests.attack [NAME ...]`, a table of what was tried and what came of it."""
