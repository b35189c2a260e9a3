"""Machines for development and tests: systemd containers on this computer, in a network without a way out.

`provider.NspawnProvider` is the provider, `provider.fleet` has the faults and `dial`. Linux, root, systemd-container.
"""
