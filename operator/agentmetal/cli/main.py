"""The command line: `agentmetal`, also installed as `kubectl-agentmetal`. Assembles the commands and ends errors.

Each group of commands is a module of its own; what others need too stands below, in `dev`, `engine` or `app`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from agentmetal.cli import machines, objects, operator, plans, surface
from agentmetal.cli.audit import audit
from agentmetal.cli.demo import demo
from agentmetal.cli.dev import dev
from agentmetal.cli.output import news
from agentmetal.core.errors import AgentMetalError

app = typer.Typer(
    name="agentmetal",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Managed services on bare metal: a plan before anything happens, an approval bound to exactly that plan.",
)
FOR_PEOPLE: tuple[Callable[..., None], ...] = (
    *(plans.plan, plans.approve, plans.reject),
    *(objects.explain, objects.operations, objects.pause, objects.resume, objects.rotate),
    *(machines.reboot, machines.repin),
)
FOR_MACHINES: tuple[Callable[..., None], ...] = (surface.tools, surface.crds, demo, operator.run, operator.version)

for command in FOR_PEOPLE:
    app.command()(command)
app.add_typer(audit, name="audit")
app.add_typer(dev, name="dev")
for command in FOR_MACHINES:
    app.command()(command)


def main() -> None:
    """The entry point: what is expected to go wrong is one sentence, never a traceback."""
    try:
        app()
    except AgentMetalError as error:
        news().print(f"agentmetal: {error.message}", markup=False, style="red")
        sys.exit(1)
