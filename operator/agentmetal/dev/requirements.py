"""What machines need of this computer, and what is missing. Asked before anything is started; installs nothing."""

from __future__ import annotations

import os
import shutil

from agentmetal.core.errors import AgentMetalError, Unavailable
from agentmetal.providers.nspawn import cgroups

PROGRAMS = {"systemd-nspawn": "systemd-container", "mmdebstrap": "mmdebstrap", "ip": "iproute2", "setsid": "util-linux"}
"""Program to Debian package."""


class CannotRunMachines(AgentMetalError):
    """This computer cannot run development machines. The message says what to do."""

    reason = "CannotRunMachines"
    who_must_act = "the developer at this machine"


def missing() -> str:
    """Why no machine can run here, in one sentence that says what to do; empty when all is well."""
    if os.geteuid() != 0:
        return "development machines are systemd containers and need root: run it with sudo, or as root"
    absent = {program: package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if absent:
        install = " ".join(sorted(set(absent.values())))
        return f"{' and '.join(sorted(absent))} missing on this computer: apt-get install {install}"
    try:
        cgroups.unified()
    except Unavailable as error:
        return error.message
    return ""


def check() -> None:
    """Raises CannotRunMachines."""
    if why := missing():
        raise CannotRunMachines(f"{why}. Without machines everything else works: agentmetal dev up --machines 0")
