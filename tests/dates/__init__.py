"""The tests at other dates: `python -m tests.dates` runs them under libfaketime and writes docs/dates.md."""
