"""The permission surface: every effect the system can have stands in this package, with its risk in `risks.py`."""
