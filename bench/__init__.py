"""Measures the operator against the budgets of the design: `python -m bench`, one run on one fresh control plane.

The operator is the real process, the API server too; only the servers are simulated (Provider type Fake). Never part of
the tests. `docs/performance.md` holds the figures of a run and says how to read them.
"""
