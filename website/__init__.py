"""The documentation's site, of docs/ and of what the code declares."""
