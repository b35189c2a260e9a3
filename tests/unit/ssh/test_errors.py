"""Claims about foreign exceptions: every one of asyncssh becomes one of ours."""

from __future__ import annotations

import inspect
import socket
import sys

import asyncssh
import pytest

from agentmetal.clients.ssh.errors import TABLE, ssh_errors, translated
from agentmetal.core.errors import AgentMetalError, AuthenticationFailed, HostKeyMismatch, Unavailable

NEVER_LEAVES_ASYNCSSH = {
    "ASN1Error",
    "ASN1EncodeError",
    "ASN1DecodeError",
    "GSSError",
    "PacketDecodeError",
}
"""Raised and caught inside; parsers, and GSSAPI, which is off."""


def exception_classes() -> list[type[Exception]]:
    """Every exception that asyncssh defines, also the ones it does not export."""
    found: set[type[Exception]] = set()
    for module in [module for name, module in sys.modules.items() if name.startswith("asyncssh.")]:
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, Exception) and cls.__module__.startswith("asyncssh."):
                found.add(cls)
    return sorted(found, key=lambda cls: cls.__name__)


def test_every_exception_of_asyncssh_is_named() -> None:
    files = {cls for cls in exception_classes() if issubclass(cls, asyncssh.SFTPError)}
    rest = {cls for cls in exception_classes() if cls.__name__ not in NEVER_LEAVES_ASYNCSSH} - files

    assert {cls.__name__ for cls in rest - set(TABLE)} == set()
    assert len(files) > 20
    assert {cls.__name__ for cls in exception_classes()} >= NEVER_LEAVES_ASYNCSSH


@pytest.mark.parametrize("raised", [OSError(), TimeoutError(), ConnectionRefusedError(), socket.gaierror(), EOFError()])
def test_what_sockets_raise_is_unavailable(raised: Exception) -> None:
    with pytest.raises(Unavailable, match="reaching 'h1'"), ssh_errors("reaching 'h1'"):
        raise raised


@pytest.mark.parametrize(
    ("raised", "becomes"),
    [
        (asyncssh.HostKeyNotVerifiable("x"), HostKeyMismatch),
        (asyncssh.PermissionDenied("x"), AuthenticationFailed),
        (asyncssh.ChannelOpenError(1, "x"), Unavailable),
        (asyncssh.SFTPFailure("x"), Unavailable),
        (asyncssh.KeyExchangeFailed("No matching encryption algorithm found"), Unavailable),
        (asyncssh.KeyExchangeFailed("No matching host key algorithm found"), HostKeyMismatch),
    ],
)
def test_an_error_says_what_happened(raised: Exception, becomes: type[AgentMetalError]) -> None:
    assert type(translated(raised, "doing")) is becomes


def test_errors_of_ours_and_bugs_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), ssh_errors("doing"):
        raise ZeroDivisionError
    with pytest.raises(HostKeyMismatch, match=r"^mine$"), ssh_errors("doing"):
        raise HostKeyMismatch("mine")
