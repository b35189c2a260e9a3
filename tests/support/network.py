"""Who is connected to the machines' network, as the kernel tells it."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from pathlib import Path

from agentmetal.providers.nspawn.record import NETWORK


def connected_from_here() -> set[str]:
    """Machines that anybody in the root namespace is connected to, or just tries to be."""
    return peers(*(Path(path).read_text() for path in ("/proc/net/tcp", "/proc/net/tcp6")))


def connected_inside(namespace: str) -> set[str]:
    """The same of another namespace."""
    entered = ("ip", "netns", "exec", namespace, "cat", "/proc/net/tcp")
    return peers(subprocess.run(entered, check=True, capture_output=True, text=True).stdout)


def peers(*tables: str) -> set[str]:
    """The addresses of the machines' network in tables of TCP connections."""
    fields = [line.split()[2].partition(":")[0] for table in tables for line in table.splitlines()[1:]]
    found = {ipaddress.ip_address(int.from_bytes(bytes.fromhex(field[-8:]), sys.byteorder)) for field in fields}
    return {str(address) for address in found if address in NETWORK}
