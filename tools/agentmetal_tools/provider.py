"""Tools of the Provider domain: the key pair with which the operator logs in to a provider's servers.

Planned by `agents.provider`, run by the executor. They never talk to the provider itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from agentmetal.clients.keys import make_key_pair
from agentmetal.core.errors import Invalid, NotFound
from agentmetal.core.resource import ApiModel, Name
from agentmetal.core.tool import Result, StepEnd, ToolContext, tool
from agentmetal_tools.hosts import CLIENT_PRIVATE, CLIENT_PUBLIC
from agentmetal_tools.risks import risk_of


class ProviderKeyParams(ApiModel):
    """Which key."""

    provider: Name = Field(description="The Provider whose servers accept it.")
    secret: Name = Field(description="The Secret that holds it.")


@dataclass(frozen=True, kw_only=True)
class ProviderKeyFacts:
    """Is there one already?"""

    exists: bool

    def __str__(self) -> str:
        return "the client key exists" if self.exists else "there is no client key yet"


async def _read_key(ctx: ToolContext, params: ProviderKeyParams) -> ProviderKeyFacts:
    try:
        await ctx.secrets.read(ctx.resource.metadata.namespace, params.secret)
    except NotFound:
        return ProviderKeyFacts(exists=False)
    return ProviderKeyFacts(exists=True)


def _always(params: ProviderKeyParams, facts: ProviderKeyFacts) -> None:
    """Nothing about a key can forbid these steps."""


def _locks(params: ProviderKeyParams) -> tuple[str, ...]:
    return (f"provider/{params.provider}",)


@tool(
    read=_read_key,
    risk=risk_of("create_provider_key"),
    holds=_always,
    render=lambda params: (
        f"Make the key pair that logs in to servers of {params.provider!r}, in Secret {params.secret!r}"
    ),
    locks=_locks,
    idempotent=True,
    timeout=30.0,
    proposable=False,
)
async def create_provider_key(ctx: ToolContext, params: ProviderKeyParams) -> StepEnd:
    """Make the key pair that logs in to a provider's servers; an existing one is kept."""
    pair = make_key_pair(f"agentmetal {ctx.resource.metadata.namespace}/{params.provider}")
    wanted = {CLIENT_PRIVATE: pair.private_openssh.encode(), CLIENT_PUBLIC: pair.public_line.encode()}
    stored = await ctx.secrets.create_once(ctx.resource, params.secret, wanted)
    if missing := sorted(wanted.keys() - stored.keys()):
        raise Invalid(f"Secret {params.secret!r} exists and lacks {missing}: delete it, and a key pair is made")
    return Result(message=f"Secret {params.secret!r} holds the client key")


@tool(
    read=_read_key,
    risk=risk_of("release_provider_key"),
    holds=_always,
    render=lambda params: f"Let go of the key pair of {params.provider!r} in Secret {params.secret!r}",
    locks=_locks,
    idempotent=True,
    timeout=30.0,
    proposable=False,
)
async def release_provider_key(ctx: ToolContext, params: ProviderKeyParams) -> StepEnd:
    """Let go of a provider's client key: it is removed together with its Provider."""
    await ctx.secrets.release(ctx.resource.metadata.namespace, params.secret)
    return Result(message=f"Secret {params.secret!r} goes with its Provider")
