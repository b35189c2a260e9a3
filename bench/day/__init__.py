"""A day of the whole operator in virtual time: part `day` of `python -m bench`, and a short one in the fault tests.

`weather` what goes wrong · `world` the operator upon it, and its restarts · `people` what they do · `diary` what may
never happen · `census` what the operator keeps · `story` the day itself and its figures.

Stands on the worlds of `tests`: nothing here is real but the operator's code.
"""
