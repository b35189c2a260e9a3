"""Mounts that die with the process that made them. Called by the supervisor and the image builder.

Both leave the shared mount namespace to mount: kill -9 then cannot leave a mount behind.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agentmetal.core.errors import Unavailable
from agentmetal.providers.nspawn.commands import run

_CLONE_NEWNS = 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def private() -> Iterator[None]:
    """Mounts of this process alone, for a while. What others unmount goes here too, or we would keep it alive.

    Namespaces of the network are made outside of it: nobody else would see their mounts. One thread only.
    """
    outside = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(_CLONE_NEWNS):
            raise Unavailable(f"cannot make a mount namespace: {os.strerror(ctypes.get_errno())}; machines need root")
        run("mount", "--make-rslave", "/")
        yield
    finally:
        if _libc.setns(outside, _CLONE_NEWNS):
            raise Unavailable(f"cannot return to the shared mounts: {os.strerror(ctypes.get_errno())}")
        os.close(outside)


@contextmanager
def overlay(lower: Sequence[Path], upper: Path, *, work: Path, root: Path) -> Iterator[None]:
    """An upper layer on read-only ones, mounted at `root`.

    `volatile`: no fsync (330 times faster), safe against everything but a crash of this computer itself. It leaves a
    mark in the work directory that forbids mounting again, hence a new one each time.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    root.mkdir(exist_ok=True)
    options = f"volatile,lowerdir={':'.join(str(path) for path in lower)},upperdir={upper},workdir={work}"
    run("mount", "-t", "overlay", "agentmetal", "-o", options, str(root))
    try:
        yield
    finally:
        run("umount", str(root))
