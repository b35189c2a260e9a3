"""User data on hosts: waits until cloud-init has run it, or does itself what our small set of cloud-config asks for.

Planned by `agents.instance` for servers that are new. How far it is, and how it ended, is noted on the host itself
(`looks.USER_DATA_PATH`), so it happens once for each disk, whoever asks. The text is read when it is used: out of the
object's spec, or out of the user's Secret; nothing of it is in a plan, a message or a note.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from agentmetal.core.condition import Reason
from agentmetal.core.errors import Invalid, NotFound, Unavailable
from agentmetal.core.machine import Completed, Ssh, UnitPhase, UnitState
from agentmetal.core.resource import AnyResource, ApiModel
from agentmetal.core.tool import NotYet, Refusal, Result, Secrets, StepEnd, ToolContext, tool
from agentmetal_tools.cloudconfig import MAX_BYTES, Action, Authorize, CloudConfig, Run, WriteFile, parse
from agentmetal_tools.hosts import HOST_USER_DATA, READ_TIMEOUT, USER_DATA_LOG, clean
from agentmetal_tools.looks import USER_DATA_PATH
from agentmetal_tools.risks import risk_of
from agentmetal_tools.servers import HostFacts, HostParams, UserDataRef, connect, locks, read_claim

SECRET_KEY = "userData"  # noqa: S105 - the name of a key, not a password
"""Key in the user's Secret."""
CLOUD_INIT_LOG = "/var/log/cloud-init-output.log"
COMMAND_TIMEOUT = 3600.0
POLL = 0.2
CLOUD_INIT_POLL = 1.0
KILLED = 128
"""Exit codes above tell of a signal: that the host is short of memory, say, and nothing of what was asked."""
MAX_IGNORED = 32

_Ignored = Annotated[str, Field(max_length=120)]


def _one_line(text: str) -> str:
    return clean(text, 300)


class UserDataParams(HostParams):
    """Which user data, on which host."""

    user_data: UserDataRef = Field(description="Which user data.")
    ignored: tuple[_Ignored, ...] = Field(
        default=(), max_length=MAX_IGNORED, description="What in it is not understood, and left out."
    )


class Note(ApiModel):
    """What stands on the host about its user data. Untrusted: shown and compared, no more."""

    uid: str = Field(default="", max_length=63, description="Of the Instance.")
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", description="Of the text; empty: out of a Secret.")
    secret: str = Field(default="", max_length=253, description="The Secret it was read from.")
    state: Literal["Running", "Done", "Failed"] = Field(description="How it is.")
    done: int = Field(default=0, ge=0, le=10_000, description="How many actions are over.")
    actions: int = Field(default=0, ge=0, le=10_000, description="How many there are.")
    ignored: tuple[Annotated[_Ignored, AfterValidator(_one_line)], ...] = Field(
        default=(), max_length=MAX_IGNORED, description="What was left out."
    )
    message: Annotated[str, AfterValidator(_one_line)] = Field(
        default="", max_length=300, description="What failed, and where to look."
    )
    operation: int = Field(default=0, ge=0, le=2**53, description="Number of the operation that began; 0: not said.")
    step: int = Field(default=1, ge=1, le=64, description="Its step.")
    attempt: int = Field(default=1, ge=1, le=10_000, description="The attempt. Commands are units named by these.")

    @property
    def ended(self) -> bool:
        """Is nothing left to do?"""
        return self.state != "Running"

    def is_about(self, ref: UserDataRef) -> bool:
        """The same user data, as far as one can tell."""
        return (self.sha256, self.secret) == (ref.sha256, ref.secret or "")


def read_note(text: str) -> Note | None:
    """The note that a host shows; None when there is none. One that cannot be read is not written anew, ever."""
    if not text.strip():
        return None
    try:
        return Note.model_validate_json(text)
    except ValidationError:
        return Note(state="Failed", message=f"{USER_DATA_PATH} on the host cannot be read: somebody changed it")


@dataclass(frozen=True, kw_only=True)
class UserDataFacts(HostFacts):
    """Whose the host is, and whether the user data is still what was planned for."""

    changed: bool = False
    ignored: tuple[str, ...] = ()

    def __str__(self) -> str:
        not_understood = f"; not understood: {', '.join(self.ignored)}" if self.ignored else ""
        return super().__str__() + ("; the user data has changed" if self.changed else "") + not_understood


# The text.


def ref_of(text: str | None, secret: str | None) -> UserDataRef | None:
    """How plans name user data: by its hash, or by its Secret."""
    if secret is not None:
        return UserDataRef(secret=secret)
    return UserDataRef(sha256=hashlib.sha256(text.encode()).hexdigest()) if text else None


async def read_secret(secrets: Secrets, namespace: str, name: str) -> str:
    """The user data in a Secret. Raises NotFound, Forbidden, Invalid."""
    held = await secrets.read(namespace, name)
    if SECRET_KEY not in held:
        raise NotFound(f"Secret {name!r} in namespace {namespace!r} has no key {SECRET_KEY!r}: put the user data there")
    if len(held[SECRET_KEY]) > MAX_BYTES:
        raise Invalid(f"the user data in Secret {name!r} is longer than {MAX_BYTES} bytes: let it fetch the rest")
    try:
        return held[SECRET_KEY].decode()
    except UnicodeDecodeError:
        raise Invalid(f"the user data in Secret {name!r} is not UTF-8 text") from None


async def fetch(ctx: ToolContext, ref: UserDataRef) -> str:
    """The text that a plan names. Raises NotFound, Forbidden, Invalid: above all when it is another one now."""
    if ref.secret is not None:
        return await read_secret(ctx.secrets, ctx.resource.metadata.namespace, ref.secret)
    if _changed(ctx.resource, ref):
        raise Invalid("the user data has changed since this was planned: it is planned for anew")
    return str(ctx.resource.spec.wire()["userData"])


def _changed(resource: AnyResource, ref: UserDataRef) -> bool:
    spec = resource.spec.wire()
    return ref_of(spec.get("userData"), (spec.get("userDataSecretRef") or {}).get("name")) != ref


async def owe(ctx: ToolContext, host_key_secret: str, ref: UserDataRef | None) -> None:
    """Remember that the disk that is ordered now has its user data before it, until that is noted as ended there."""
    value = None if ref is None else json.dumps(ref.wire()).encode()
    await ctx.secrets.change(ctx.resource, host_key_secret, {HOST_USER_DATA: value})


def read_owed(held: Mapping[str, bytes]) -> UserDataRef | None:
    """What the Secret of an Instance remembers; None when nothing is owed."""
    if HOST_USER_DATA not in held:
        return None
    try:
        return UserDataRef.model_validate_json(held[HOST_USER_DATA])
    except ValidationError:
        return UserDataRef()


# Facts, conditions, one line for people.


async def _read(ctx: ToolContext, params: UserDataParams) -> UserDataFacts:
    claimed = await read_claim(ctx, params)
    return UserDataFacts(
        foreign=claimed.foreign, changed=_changed(ctx.resource, params.user_data), ignored=params.ignored
    )


def _unclaimed(params: UserDataParams, facts: UserDataFacts) -> Refusal | None:
    if not facts.foreign:
        return None
    message = f"the host of {params.server!r} is claimed by {facts.foreign}: nothing is run there"
    return Refusal(reason=Reason.CLAIMED_BY_OTHER, message=message)


def _same(params: UserDataParams, facts: UserDataFacts) -> Refusal | None:
    if not facts.changed:
        return _unclaimed(params, facts)
    return Refusal(reason=Reason.PLAN_PENDING, message="the user data has changed: it is planned for anew")


def _named(params: UserDataParams) -> str:
    ref = params.user_data
    return f"out of Secret {ref.secret!r}" if ref.secret else f"with hash {ref.sha256[:12]}"


def _await(params: UserDataParams) -> str:
    return f"Wait until cloud-init has run the user data {_named(params)} on server {params.server!r}"


def _apply(params: UserDataParams) -> str:
    left_out = f"; not understood and left out: {', '.join(params.ignored)}" if params.ignored else ""
    return f"Do on server {params.server!r} what the user data {_named(params)} asks for{left_out}"


# The tools.


@tool(
    read=_read,
    risk=risk_of("await_user_data"),
    holds=_unclaimed,
    render=_await,
    idempotent=True,
    timeout=90.0,
    patience=7200.0,
    releases_while_waiting=True,
)
async def await_user_data(ctx: ToolContext, params: UserDataParams) -> StepEnd:
    """Wait until cloud-init has run the user data, and note how it ended."""
    host = await connect(ctx, params)
    ran = await host.run(["cloud-init", "status", "--format", "json"], timeout=30.0)
    failure = _cloud_init_failure(ran)
    if failure is None:
        return NotYet(again_in=CLOUD_INIT_POLL, message=f"cloud-init runs on server {params.server!r}")
    return await _ended(ctx, host, params, _note(ctx, params), failure)


async def forget_units(ctx: ToolContext, params: HostParams) -> None:
    """Drop what the host keeps about this operation's commands: of use only while the operation is open.

    But not while user data is unfinished there: an operation that goes on with it learns from them what has run.
    """
    host = await connect(ctx, params)
    note = await _found(host)
    if note is None or note.ended or note.uid != ctx.resource.uid:
        await host.forget_units(ctx.operation)


@tool(
    read=_read,
    risk=risk_of("apply_user_data"),
    holds=_same,
    render=_apply,
    locks=locks,
    idempotent=True,
    timeout=300.0,
    patience=7200.0,
    proposable=False,
    clean_up=forget_units,
)
async def apply_user_data(ctx: ToolContext, params: UserDataParams) -> StepEnd:
    """Do what user data asks for, action by action; after the first that fails nothing more is done."""
    host = await connect(ctx, params)
    config = await asyncio.to_thread(parse, await fetch(ctx, params.user_data))
    note = await _progress(ctx, host, params, config)
    if note.ended:
        return await _ended(ctx, host, params, note, note.message)
    for number, action in enumerate(config.actions[note.done :], note.done + 1):
        failure = await _act(_as_begun(ctx, note), host, action, number)
        if failure is None:
            return NotYet(again_in=POLL, message=f"user data on server {params.server!r}: {action.what}")
        if failure:
            return await _ended(ctx, host, params, note, f"{action.what} {failure}")
        note = note.model_copy(update={"done": number})
        await _write(host, note)
    return await _ended(ctx, host, params, note, "")


# Parts of tools.


def _note(ctx: ToolContext, params: UserDataParams, actions: int = 0) -> Note:
    ref = params.user_data
    return Note(
        uid=ctx.resource.uid,
        sha256=ref.sha256,
        secret=ref.secret or "",
        state="Running",
        actions=actions,
        ignored=params.ignored,
        operation=_number_of(ctx),
        step=ctx.step,
        attempt=ctx.attempt,
    )


def _number_of(ctx: ToolContext) -> int:
    number = ctx.operation.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _as_begun(ctx: ToolContext, note: Note) -> ToolContext:
    """Whoever goes on asks for the units of who began: under names of his own everything would run again.

    The host says numbers only; that they are this very Instance's operations is our doing.
    """
    if not note.operation:
        return ctx
    operation = f"{ctx.operation.rpartition('-')[0]}-{note.operation}"
    return replace(ctx, operation=operation, step=note.step, attempt=note.attempt)


async def _found(host: Ssh) -> Note | None:
    found = await host.run(["cat", "--", USER_DATA_PATH], timeout=READ_TIMEOUT)
    return read_note(found.stdout) if found.exit_code == 0 else None


async def _progress(ctx: ToolContext, host: Ssh, params: UserDataParams, config: CloudConfig) -> Note:
    """Where an earlier operation left off; the beginning, when it was other user data or another Instance's."""
    note = await _found(host)
    if note is not None and note.uid in ("", ctx.resource.uid):
        same = note.is_about(params.user_data) and note.actions == len(config.actions)
        if note.ended or same:
            return note
    fresh = _note(ctx, params, len(config.actions))
    await _write(host, fresh)
    return fresh


async def _write(host: Ssh, note: Note) -> None:
    await host.write_file(USER_DATA_PATH, json.dumps(note.wire()).encode() + b"\n", mode=0o600)


async def _ended(ctx: ToolContext, host: Ssh, params: UserDataParams, note: Note, failure: str) -> Result:
    """Note it on the host first: only then nothing is owed any more."""
    if not note.ended:
        changes = {"state": "Failed" if failure else "Done", "message": clean(failure, 300)}
        await _write(host, note.model_copy(update=changes))
    if (begun := _as_begun(ctx, note).operation) != ctx.operation:
        await host.forget_units(begun)
    await owe(ctx, params.host_key_secret, None)
    told = f"the user data failed: {failure}" if failure else "the user data has run"
    return Result(message=f"server {params.server!r}: {told}")


async def _act(ctx: ToolContext, host: Ssh, action: Action, number: int) -> str | None:
    """Why it failed, nothing when it is done, None while it runs."""
    match action:
        case WriteFile():
            await host.write_file(action.path, action.content, mode=action.mode)
            return ""
        case Authorize():
            return await _authorize(host, action)
        case Run():
            try:
                state = await ctx.unit(host, action.argv, timeout=COMMAND_TIMEOUT, part=number)
            except NotFound:
                return "failed, for the host has no such program"
            return await _judged(host, action, state)


async def _judged(host: Ssh, action: Run, state: UnitState) -> str | None:
    if state.phase in (UnitPhase.NEVER, UnitPhase.RUNNING):
        return None
    if state.phase is UnitPhase.ENDED and state.exit_code in action.fine:
        return ""
    await host.write_file(USER_DATA_LOG, f"{action.what}\n{state.output}\n".encode(), mode=0o600)
    match state.phase:
        case UnitPhase.INTERRUPTED:
            how = "was interrupted, for the machine went down"
        case UnitPhase.UNKNOWN:
            how = "ran, and how it ended was not recorded"
        case _:
            how = f"was killed by {state.killed_by}" if state.killed_by else f"failed with exit code {state.exit_code}"
    return f"{how}: see {USER_DATA_LOG} on the host"


_HOME = re.compile(r"/[A-Za-z0-9/_.-]{0,255}")


async def _authorize(host: Ssh, action: Authorize) -> str:
    """As that user, not as root: then no link in his home leads anywhere that he could not write to himself."""
    entry = await host.run(["getent", "passwd", action.user], timeout=READ_TIMEOUT)
    home = (entry.stdout.strip().split(":") + [""] * 7)[5]
    if entry.exit_code != 0 or not _HOME.fullmatch(home) or ".." in home:
        return "failed, for the user has no home"
    directory, file = f"{home.rstrip('/')}/.ssh", f"{home.rstrip('/')}/.ssh/authorized_keys"
    as_user = ("runuser", "-u", action.user, "--")
    await host.run([*as_user, "mkdir", "-p", "-m", "0700", "--", directory], timeout=READ_TIMEOUT)
    there = await host.run([*as_user, "cat", "--", file], timeout=READ_TIMEOUT)
    lines = there.stdout.splitlines() if there.exit_code == 0 else []
    missing = "".join(f"{key}\n" for key in action.keys if key not in lines)
    if not missing:
        return ""
    # Only ever appended: what stands there, our own key above all, survives a full disk and a file too long to read.
    gap = "" if not there.stdout or there.stdout.endswith("\n") else "\n"
    content = f"{gap}{missing}".encode()
    written = await host.run([*as_user, "tee", "-a", "--", file], stdin=content, timeout=READ_TIMEOUT)
    return "" if written.exit_code == 0 else "failed, for the user's authorized_keys cannot be written"


_UNDER_WAY = frozenset({"not run", "not started", "running"})


def _cloud_init_failure(ran: Completed) -> str | None:
    """What `cloud-init status` says: why it failed, nothing when it is done, None while it runs.

    Raises Unavailable when it said nothing at all.
    """
    try:
        said = json.loads(ran.stdout[:MAX_BYTES])
    except (ValueError, RecursionError):
        said = None
    if said is None and ran.exit_code > KILLED:
        raise Unavailable(f"`cloud-init status` was killed on the host (exit {ran.exit_code}): asked again")
    status = str(said.get("status")) if isinstance(said, dict) else ""
    if status in _UNDER_WAY:
        return None
    if status == "error":
        return f"cloud-init reports errors: see {CLOUD_INIT_LOG} on the host"
    if status in ("done", "degraded done"):
        return ""
    return "cloud-init does not run on the host: `cloud-init status --long` there says why"
