"""Real machines, for the claims that source code alone cannot show."""

from tests.support.fleet import nspawn as nspawn  # a fixture: found by its name
