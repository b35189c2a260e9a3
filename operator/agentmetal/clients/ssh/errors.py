"""Where asyncssh's exceptions end: each becomes one of `core.errors`. Used around every call in this package.
Also what a program of the host says when a file cannot be written.

A test enumerates every exception class of asyncssh and fails on one that this table does not name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import asyncssh
from asyncssh.misc import SoftEOFReceived
from asyncssh.saslprep import SASLPrepError

from agentmetal.core.errors import (
    AgentMetalError,
    AlreadyExists,
    AuthenticationFailed,
    Forbidden,
    HostKeyMismatch,
    Invalid,
    LimitReached,
    NotFound,
    Unavailable,
)
from agentmetal.core.machine import Completed

TABLE: Mapping[type[Exception], type[AgentMetalError]] = {
    # the connection
    asyncssh.HostKeyNotVerifiable: HostKeyMismatch,
    asyncssh.PermissionDenied: AuthenticationFailed,
    asyncssh.IllegalUserName: AuthenticationFailed,
    asyncssh.PasswordChangeRequired: AuthenticationFailed,
    asyncssh.KeyImportError: AuthenticationFailed,  # our private key, as the Secret holds it
    asyncssh.KeyEncryptionError: AuthenticationFailed,
    asyncssh.KeyExchangeFailed: Unavailable,  # but see `_is_other_key`
    asyncssh.ConnectionLost: Unavailable,
    asyncssh.ProtocolError: Unavailable,
    asyncssh.ProtocolNotSupported: Unavailable,
    asyncssh.ServiceNotAvailable: Unavailable,
    asyncssh.CompressionError: Unavailable,
    asyncssh.MACError: Unavailable,
    asyncssh.DisconnectError: Unavailable,
    asyncssh.Error: Unavailable,
    OSError: Unavailable,  # refused, unreachable, name not found; TimeoutError is one too
    EOFError: Unavailable,
    # sessions
    asyncssh.ChannelOpenError: Unavailable,
    asyncssh.ChannelListenError: Unavailable,
    asyncssh.ProcessError: Unavailable,
    asyncssh.TimeoutError: Unavailable,
    asyncssh.BreakReceived: Unavailable,  # a host has no business sending these four
    asyncssh.SignalReceived: Unavailable,
    asyncssh.TerminalSizeChanged: Unavailable,
    SoftEOFReceived: Unavailable,
    # ours
    asyncssh.ConfigParseError: Invalid,
    asyncssh.KeyExportError: Invalid,
    SASLPrepError: Invalid,  # a user name that no account can have
    asyncssh.KeyGenerationError: Invalid,
    # files; what is not named here fails as SFTPError does
    asyncssh.SFTPError: Unavailable,
    asyncssh.SFTPNoSuchFile: NotFound,
    asyncssh.SFTPNoSuchPath: NotFound,
    asyncssh.SFTPPermissionDenied: Forbidden,
    asyncssh.SFTPWriteProtect: Forbidden,
    asyncssh.SFTPFileAlreadyExists: AlreadyExists,
    asyncssh.SFTPNoSpaceOnFilesystem: LimitReached,
    asyncssh.SFTPQuotaExceeded: LimitReached,
    asyncssh.SFTPInvalidFilename: Invalid,
    asyncssh.SFTPInvalidParameter: Invalid,
    asyncssh.SFTPNotADirectory: Invalid,
    asyncssh.SFTPFileIsADirectory: Invalid,
    asyncssh.SFTPLinkLoop: Invalid,
    asyncssh.SFTPOpUnsupported: Invalid,
}

WRITING: Mapping[str, tuple[type[AgentMetalError], str]] = {
    "No space left on device": (LimitReached, "no space is left on its file system, free some"),
    "Disk quota exceeded": (LimitReached, "root's quota there is used up"),
    "Read-only file system": (Forbidden, "its file system is mounted read-only, look at the disk"),
    "Operation not permitted": (Forbidden, "not even root may"),
    "Permission denied": (Forbidden, "not even root may"),
    "No such file or directory": (NotFound, "what is above it does not exist"),
    "Not a directory": (NotFound, "what is above it is no directory"),
}
"""What programs say on stderr in the C locale, and what it means."""


@contextmanager
def ssh_errors(doing: str) -> Iterator[None]:
    """Turn what asyncssh and the sockets raise into `core.errors`; `doing` says what was tried, and where."""
    try:
        yield
    except tuple(TABLE) as error:
        raise translated(error, doing) from error


def translated(error: Exception, doing: str) -> AgentMetalError:
    """The error of ours that says the same."""
    if _is_other_key(error):
        return HostKeyMismatch(f"{doing}: the host offers no key of the pinned kind; was it replaced? ({error})")
    nearest = next(TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)
    why = "not in time" if isinstance(error, TimeoutError | asyncssh.TimeoutError) else str(error)
    return nearest(f"{doing}: {why or type(error).__name__}")


def _is_other_key(error: Exception) -> bool:
    """A host that has no key of the pinned kind fails while algorithms are agreed on, before it shows a key."""
    return isinstance(error, asyncssh.KeyExchangeFailed) and "host key" in str(error)


def write_error(path: str, failed: Completed) -> AgentMetalError:
    """Why a command that ran in the C locale could not change a file."""
    said = " ".join(failed.stderr.split())[:200]
    for text, (error, why) in WRITING.items():
        if text in said:
            return error(f"{path!r} cannot be changed: {why} ({said!r})")
    return Unavailable(f"{path!r} cannot be changed (exit {failed.exit_code}, {said!r})")
