"""The command line: `agentmetal`, also installed as `kubectl-agentmetal`. Assembles the commands and ends errors.

Each group of commands is a module of its own; what others need too stands below, in `dev`, `engine` or `app`.
"""

from __future__ import annotations

import sys

import typer

from agentmetal.cli import operator
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
app.add_typer(dev, name="dev")
app.command()(operator.run)
app.command()(operator.version)


def main() -> None:
    """The entry point: what is expected to go wrong is one sentence, never a traceback."""
    try:
        app()
    except AgentMetalError as error:
        news().print(f"agentmetal: {error.message}", markup=False, style="red")
        sys.exit(1)
