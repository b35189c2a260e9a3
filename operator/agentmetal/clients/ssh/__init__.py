"""Hosts reached by SSH: `core.machine.Machines` and `Ssh` for real. Built by `app.py`; used through the protocols.

machines.py keeps the connections, connection.py makes one (the only place of the project that does), host.py speaks
over it, files.py moves files, wrapper.py talks to `agentmetal-run`, the program that runs commands once on the host,
command.py quotes, errors.py translates every foreign exception.
"""

from agentmetal.clients.ssh.machines import SshMachines

__all__ = ["SshMachines"]
