"""What is ordered: the server's specification and its host key. Used by the tools that order and rebuild."""

from __future__ import annotations

from agentmetal.clients.keys import make_key_pair
from agentmetal.core.errors import Invalid
from agentmetal.core.machine import ServerSpec
from agentmetal.core.resource import Key
from agentmetal.core.tool import ToolContext
from agentmetal_tools.hosts import CLIENT_PUBLIC, HOST_PRIVATE, HOST_PUBLIC
from agentmetal_tools.login_keys import public_keys
from agentmetal_tools.servers import ProvisionParams, provider_of, tag_of
from agentmetal_tools.userdata import fetch, owe


async def server_spec(ctx: ToolContext, params: ProvisionParams, *, host_key: str | None = None) -> ServerSpec:
    """What the provider is asked for. Raises NotFound, Invalid, when a key that it needs is not there.

    Without a host key the one is taken that we make for it; a server that exists (empty) keeps its own.
    """
    namespace = ctx.resource.metadata.namespace
    client = await ctx.secrets.read(namespace, params.client_key_secret)
    if CLIENT_PUBLIC not in client:
        raise Invalid(f"Secret {params.client_key_secret!r} lacks {CLIENT_PUBLIC!r}: delete it and it is made anew")
    key = await made_host_key(ctx, params) if host_key is None else host_key
    return ServerSpec(
        name=params.server,
        owner=tag_of(ctx),
        type=params.type,
        image=params.image,
        location=params.location,
        hostname=params.hostname,
        failure_domain=params.failure_domain,
        labels=params.labels,
        authorized_keys=public_keys(client),
        host_key=key,
        user_data=await _user_data(ctx, params),
        avoid=await _named_by_others(ctx, params),
    )


async def _named_by_others(ctx: ToolContext, params: ProvisionParams) -> tuple[str, ...]:
    """The servers that other Instances name in `adopt`: who only looks at one must not find it given to somebody.

    Only servers that exist already can be given away so; for others it would cost every order a look at all objects.
    """
    if (await provider_of(ctx, params)).capabilities.makes_servers:
        return ()
    provider = Key("Provider", ctx.resource.metadata.namespace, params.provider)
    others = (ctx.lookup.get(key) for key in ctx.lookup.referrers(provider) if key != ctx.resource.key)
    named = {getattr(one.spec, "adopt", None) for one in others if one is not None}
    return tuple(sorted(name for name in named if name))


async def _user_data(ctx: ToolContext, params: ProvisionParams) -> str:
    """The text for cloud-init, where the image carries it. What the new disk has before it is noted in either case."""
    if params.user_data is None:
        return ""
    text = await fetch(ctx, params.user_data)
    await owe(ctx, params.host_key_secret, params.user_data)
    return text if (await provider_of(ctx, params)).runs_cloud_init(params.image) else ""


async def made_host_key(ctx: ToolContext, params: ProvisionParams) -> str:
    """The private host key: made at the first call, and anew when another key is trusted since; else the same one."""
    pair = make_key_pair(f"{params.server} (host key)")
    made = {HOST_PRIVATE: pair.private_openssh.encode(), HOST_PUBLIC: pair.public_line.encode()}
    held = await ctx.secrets.create_once(ctx.resource, params.host_key_secret, made)
    if HOST_PRIVATE not in held:
        held = await ctx.secrets.change(ctx.resource, params.host_key_secret, made)
    return held[HOST_PRIVATE].decode()
