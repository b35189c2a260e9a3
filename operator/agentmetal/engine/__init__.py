"""The engine: observe, diff, plan, approve, execute, record. It knows protocols only; `app.py` hands it the rest."""
