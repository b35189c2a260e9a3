"""Images: Debian trees under the user's cache, built once for each recipe and never written again.

`python -m agentmetal.providers.nspawn.images NAME` builds one and prints what it does; the supervisor calls `ensure`,
the operator's side `fleet.ensure_image`. A recipe's hash is its directory, so a changed recipe is another image.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agentmetal.core.errors import Invalid, Unavailable
from agentmetal.providers.nspawn.commands import die_with_parent, tied
from agentmetal.providers.nspawn.files import locked
from agentmetal.providers.nspawn.mounts import overlay, private

Progress = Callable[[str], None]

SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
FORMAT = 1
"""Raise it when the building code changes what comes out of an unchanged recipe."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What an image is made of."""

    name: str
    parent: str = ""
    """The image it is a layer on; none for a whole Debian."""
    packages: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    """Units that make no sense in a machine that is a container."""
    files: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Hash of everything that decides what comes out."""
        parent = RECIPES[self.parent].key if self.parent else ""
        what = {**asdict(self), "parent": parent, "format": FORMAT, "machine": platform.machine()}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


SSHD = """\
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
HostKey /etc/ssh/ssh_host_ed25519_key
"""
JOURNAL = "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n"
APT = 'APT::Install-Recommends "false";\nAPT::Update::Error-Mode "any";\nAcquire::Languages "none";\n'
CLOUD_INIT = "cloud-init"
CLOUD = """\
datasource_list: [NoCloud]
network: {config: disabled}
ssh_deletekeys: false
ssh_genkeytypes: []
disable_root: false
preserve_hostname: true
locale: false
apt_preserve_sources_list: true
growpart: {mode: "off"}
resize_rootfs: false
"""
"""The seed is on the disk before the first boot: nothing else is searched for, and what we laid there stays."""

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="bookworm",
            packages=(
                *("systemd", "systemd-sysv", "dbus", "openssh-server", "iproute2", "nftables", "python3-minimal"),
                *("ca-certificates", "iputils-ping", "procps", "sudo", "curl", "less", "kmod"),
            ),
            masked=(
                *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
                *("e2scrub_reap.service", "console-getty.service", "getty@tty1.service", "modprobe@.service"),
                *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount"),
                *("dev-hugepages.mount", "dev-mqueue.mount", "systemd-remount-fs.service"),
                *("systemd-update-utmp.service", "systemd-update-utmp-runlevel.service"),
                *("systemd-networkd-wait-online.service", "systemd-firstboot.service", "systemd-journal-flush.service"),
            ),
            files={
                "etc/agentmetal-image": "bookworm\n",
                "etc/ssh/sshd_config.d/agentmetal.conf": SSHD,
                "etc/systemd/journald.conf.d/agentmetal.conf": JOURNAL,
                "etc/apt/apt.conf.d/90agentmetal": APT,
                "etc/resolv.conf": "",  # of the building machine; a machine of ours has nobody to ask
            },
        ),
        Recipe(
            name="bookworm-tools",
            parent="bookworm",
            packages=("jq", "tree"),
            files={"etc/agentmetal-image": "bookworm-tools\n"},
        ),
        Recipe(
            name="bookworm-cloud",
            parent="bookworm",
            packages=(CLOUD_INIT,),
            files={
                "etc/agentmetal-image": "bookworm-cloud\n",
                "etc/cloud/cloud.cfg.d/90_agentmetal.cfg": CLOUD,
            },
        ),
    )
}


def recipe_of(name: str) -> Recipe:
    """The recipe of that name. Raises Invalid with the known ones."""
    try:
        return RECIPES[name]
    except KeyError:
        raise Invalid(f"image {name!r} does not exist: use one of {', '.join(sorted(RECIPES))}") from None


def runs_cloud_init(name: str) -> bool:
    """Does cloud-init run at its first boot? Raises Invalid."""
    recipe = recipe_of(name)
    return CLOUD_INIT in recipe.packages or (bool(recipe.parent) and runs_cloud_init(recipe.parent))


def cache() -> Path:
    """Where images are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "agentmetal" / "images"


def ready(name: str) -> bool:
    """Is it built?"""
    return _tree(recipe_of(name)).exists()


def layers(name: str) -> tuple[Path, ...]:
    """The trees of an image, top first, as overlayfs wants them."""
    recipe = recipe_of(name)
    return (_tree(recipe), *(layers(recipe.parent) if recipe.parent else ()))


def ensure(name: str, progress: Progress) -> None:
    """Build an image, and first the one below it, if they are not there. Others who want it wait.

    Call it inside of `mounts.private`: builders mount.
    """
    recipe = recipe_of(name)
    if recipe.parent:
        ensure(recipe.parent, progress)
    if _tree(recipe).exists():
        return
    progress(f"image {name!r} is needed and not in {str(cache())!r}")
    with locked(cache() / f"{recipe.key}.lock"):
        if not _tree(recipe).exists():
            _build(recipe, progress)


def _tree(recipe: Recipe) -> Path:
    return cache() / recipe.key / "tree"


def _build(recipe: Recipe, progress: Progress) -> None:
    """Build beside its place and rename: an interrupted build is never taken for an image."""
    began = time.monotonic()
    draft = cache() / f".new-{recipe.key}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    (_layer if recipe.parent else _debian)(recipe, draft, progress)
    (draft / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))
    draft.rename(cache() / recipe.key)
    progress(f"image {recipe.name!r} built in {time.monotonic() - began:.0f} s")


def _debian(recipe: Recipe, draft: Path, progress: Progress) -> None:
    """A whole Debian, from the sources that this machine itself uses."""
    progress(f"building image {recipe.name!r} with mmdebstrap (about half a minute)")
    tree = draft / "tree"
    include = f"--include={','.join(recipe.packages)}"
    recommends = '--aptopt=APT::Install-Recommends "false"'
    sources = [str(path) for path in _sources()]
    _follow(["mmdebstrap", "--variant=minbase", include, recommends, "bookworm", str(tree), *sources], progress)
    for key in (tree / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    _write_files(recipe, tree)
    (tree / "etc/machine-id").write_text("uninitialized\n")
    for unit in recipe.masked:
        link = tree / "etc/systemd/system" / unit
        if not link.exists():
            link.symlink_to("/dev/null")


def _layer(recipe: Recipe, draft: Path, progress: Progress) -> None:
    """Packages and files on top of another image, installed in a container with this machine's network."""
    progress(f"building image {recipe.name!r} on {recipe.parent!r}: {' '.join(recipe.packages)}")
    root = draft / "mount"
    (draft / "tree").mkdir()
    with overlay(layers(recipe.parent), draft / "tree", work=draft / "work", root=root):
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        _follow(_in_container(root, "apt-get", "-q", "update"), progress)
        _follow(_in_container(root, "apt-get", "-q", "-y", "install", *recipe.packages), progress)
        _follow(_in_container(root, "apt-get", "clean"), progress)
        policy.unlink()
        shutil.rmtree(root / "var/lib/apt/lists")
        _write_files(recipe, root)
    shutil.rmtree(draft / "work")
    root.rmdir()


def _in_container(root: Path, *argv: str) -> list[str]:
    options = ["--quiet", "--keep-unit", "--register=no", "--pipe", "--resolv-conf=bind-host"]
    return ["systemd-nspawn", *options, "--setenv=DEBIAN_FRONTEND=noninteractive", "-D", str(root), *argv]


def _write_files(recipe: Recipe, tree: Path) -> None:
    for name, text in recipe.files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # resolv.conf may be a link to somewhere outside
        path.write_text(text)


def _sources() -> list[Path]:
    listed = [SOURCES[0], *sorted(SOURCES[1].glob("*.sources")), *sorted(SOURCES[1].glob("*.list"))]
    debian = [path for path in listed if path.is_file() and "debian.org" in path.read_text()]
    return debian[:1]


def _follow(argv: list[str], progress: Progress) -> None:
    """Run a program for minutes, reporting what it says; its last lines are the complaint when it fails."""
    said: list[str] = []
    if shutil.which(argv[0]) is None:
        raise Unavailable(f"{argv[0]!r} is not installed: apt-get install mmdebstrap systemd-container")
    with subprocess.Popen(
        tied(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - builders have a single thread
    ) as process:
        assert process.stdout is not None  # noqa: S101 - asked for by PIPE
        for raw in process.stdout:
            line = raw.decode(errors="replace").rsplit("\r", 1)[-1].strip()
            said = [*said[-20:], line]
            if line.startswith("I: "):
                progress(line[3:])
    if process.returncode:
        raise Unavailable(f"{argv[0]!r} ended with {process.returncode}: " + "\n".join(said))


def main() -> None:
    """Build images from the command line."""
    parser = argparse.ArgumentParser(description="Build images of development machines.")
    parser.add_argument("name", nargs="+", choices=sorted(RECIPES))
    with private():
        for name in parser.parse_args().name:
            try:
                ensure(name, lambda line: print(line, flush=True))  # noqa: T201 - this is a program
            except (Unavailable, OSError) as error:
                sys.exit(str(error))


if __name__ == "__main__":
    main()
