"""Our own small set of cloud-config, for hosts without cloud-init: text in, actions out. Pure; used by `userdata.py`.

What is understood: users, ssh_authorized_keys, packages, write_files, runcmd. Everything else is named in `ignored`,
never dropped in silence; a value that is wrong, or YAML that cannot be read, is Invalid, before anything is ordered.
Every scalar is read as text, so `0644` and `1.10` mean what they look like.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml

from agentmetal.clients.ssh.command import command_line
from agentmetal.clients.ssh.wrapper import STATE
from agentmetal.core.errors import Invalid

HEADER = "#cloud-config"
MAX_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_ACTIONS = 200
MAX_COMMAND = 96 * 1024
"""Bytes as a shell reads them, with all quotes. Linux takes 128 KiB for one argument, and SSH makes one of all."""
APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "Dpkg::Options::=--force-confold")
EXISTS_ALREADY = 9
"""How useradd ends for a name that exists, be it a group's."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run a command."""

    what: str
    """Where it stands in the text, as `runcmd[2]`: says nothing of what it does."""
    argv: tuple[str, ...] = field(repr=False)
    fine: frozenset[int] = frozenset({0})
    """Exit codes that are no failure."""


@dataclass(frozen=True, kw_only=True)
class WriteFile:
    """Replace a file."""

    what: str
    path: str
    content: bytes = field(repr=False)
    mode: int


@dataclass(frozen=True, kw_only=True)
class Authorize:
    """Let keys log in as a user."""

    what: str
    user: str
    keys: tuple[str, ...]


Action = Run | WriteFile | Authorize


@dataclass(frozen=True, kw_only=True)
class CloudConfig:
    """What a text asks for."""

    actions: tuple[Action, ...]
    """In the order in which they are done: users, keys, files, packages, commands."""
    ignored: tuple[str, ...]
    """What is not understood, as `ntp` or `users[0].passwd`."""


def check(text: str) -> None:
    """For images with cloud-init, which reads far more than we do: only that cloud-config is YAML. Raises Invalid."""
    if text.startswith(HEADER):
        _yaml(text, lambda: yaml.compose(text, Loader=_Shallow))


def parse(text: str) -> CloudConfig:
    """What a text asks for. Raises Invalid, with the line or the place."""
    if [line.rstrip() for line in text.splitlines()[:1]] != [HEADER]:
        raise Invalid(f"user data must begin with the line {HEADER}: no other form is understood without cloud-init")
    read = _yaml(text, lambda: yaml.load(text, Loader=_Strict))  # noqa: S506 - knows lists, mappings and text only
    return _Reader(_mapping(read if read not in (None, "") else {}, "user data")).config()


class _Shallow(yaml.BaseLoader):
    """Text, lists and mappings, not too deep in one another: the time to read them grows with the depth, too."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Invalid("user data is nested too deeply")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_SURROGATE = re.compile("[\ud800-\udfff]")
"""What `\\ud800` means, and what no file and no command line can hold."""


class _Strict(_Shallow):
    """No aliases, which can make a small text huge, and no key twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]  # the stubs leave it out
            raise yaml.composer.ComposerError(None, None, "aliases are not understood", mark)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and _SURROGATE.search(node.value):
            raise yaml.composer.ComposerError(None, None, "half a character is no text", node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, "a key is no text, or there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _yaml(text: str, read: Callable[[], Any]) -> Any:
    """The message holds the line and nothing of the text: that may be out of a Secret."""
    if len(text.encode()) > MAX_BYTES:
        raise Invalid(f"user data is longer than {MAX_BYTES} bytes: let it fetch the rest")
    try:
        return read()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" near line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Invalid(f"user data is not valid YAML{where}: {_problem(error)}") from None
    except yaml.YAMLError:
        raise Invalid("user data is not valid YAML: it holds characters that YAML does not allow") from None
    except (ValueError, OverflowError):  # PyYAML's own, of `\U00110000` and of a huge version in `%YAML`
        raise Invalid("user data is not valid YAML: it holds an escape or a number that means nothing") from None


_OWN_WORDS = (
    "aliases are not understood",
    "a key is no text, or there twice",
    "half a character is no text",
    "mapping values are not allowed here",
)


def _problem(error: yaml.MarkedYAMLError) -> str:
    return error.problem if error.problem in _OWN_WORDS else "look at its indentation, quotes and colons"


_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{0,127}(:[a-z0-9]{1,16})?(=[A-Za-z0-9.+:~-]{1,64})?(?<!-)")
"""None that ends with `-`: by that apt-get understands that it is to be removed."""
_SHELL = re.compile(r"/[A-Za-z0-9/_.-]{1,127}")
_OWNER = re.compile(r"[a-z_][a-z0-9_-]{0,31}(:[a-z_][a-z0-9_-]{0,31})?")
_MODE = re.compile(r"(0o?)?([0-7]{3,4})")
_SUDO_COMMANDS = r"(ALL|/[A-Za-z0-9/_.-]+(, ?/[A-Za-z0-9/_.-]+)*)"
_SUDO = re.compile(rf"ALL ?= ?\((ALL|[a-z_][a-z0-9_-]*)(:ALL)?\) ?((NO)?PASSWD: ?)?{_SUDO_COMMANDS}")
_KEY = re.compile(
    r"(ssh-[a-z0-9-]{1,32}|(sk-)?ecdsa-[a-z0-9@.-]{1,64}|sk-ssh-[a-z0-9@.-]{1,64}) [A-Za-z0-9+/=]{16,8192}( .*)?"
)
_PLAIN, _BASE64 = frozenset({"", "text/plain"}), frozenset({"b64", "base64"})


class _Reader:
    """One text."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._ignored: list[str] = []

    def config(self) -> CloudConfig:
        known = {
            "users": self._users,
            "ssh_authorized_keys": self._root_keys,
            "write_files": self._files,
            "packages": self._packages,
            "runcmd": self._commands,
        }
        actions = tuple(action for name, read in known.items() if name in self._root for action in read())
        if len(actions) > MAX_ACTIONS:
            raise Invalid(f"user data asks for {len(actions)} actions, {MAX_ACTIONS} are the most: write a script")
        unknown = [_shown(name) for name in self._root if name not in known]
        return CloudConfig(actions=actions, ignored=(*unknown, *self._ignored))

    def _users(self) -> Iterator[Action]:
        for number, user in enumerate(_list(self._root["users"], "users")):
            where = f"users[{number}]"
            if user == "default":
                self._ignored.append(f"{where} (there is no default user)")
            else:
                yield from self._user({"name": user} if isinstance(user, str) else _mapping(user, where), where)

    def _user(self, user: Mapping[str, Any], where: str) -> Iterator[Action]:
        name = _matching(_NAME, user.get("name"), f"{where}.name", "a user name: a-z, 0-9, - and _, at most 32")
        yield Run(what=where, argv=("useradd", "--create-home", "--", name), fine=frozenset({0, EXISTS_ALREADY}))
        options: list[str] = []
        if groups := _names(user.get("groups", ""), f"{where}.groups"):
            for group in groups:
                yield Run(what=f"{where}.groups", argv=("groupadd", "--force", "--", group))
            options += ["--append", "--groups", ",".join(groups)]
        if "shell" in user:
            shell = _matching(_SHELL, user["shell"], f"{where}.shell", "the path of a program")
            options += ["--shell", shell]
        if options:
            yield Run(what=where, argv=("usermod", *options, "--", name))
        else:  # useradd ends in the same way for a name that is only a group's
            yield Run(what=f"{where} (is it made? its name may be a group's)", argv=("id", "--", name))
        yield from self._sudo(user, name, where)
        if keys := _keys(user.get("ssh_authorized_keys", []), f"{where}.ssh_authorized_keys"):
            yield Authorize(what=f"{where}.ssh_authorized_keys", user=name, keys=keys)
        known = {"name", "groups", "shell", "sudo", "ssh_authorized_keys"}
        self._ignored += [f"{where}.{_shown(key)}" for key in user if key not in known]

    def _sudo(self, user: Mapping[str, Any], name: str, where: str) -> Iterator[Action]:
        """A file that sudo cannot read would lock everybody out of it: only plain rules are taken."""
        given = user.get("sudo", [])
        listed = [given] if isinstance(given, str) else _list(given, f"{where}.sudo")
        rules = [rule for rule in listed if rule not in ("", "null", "~", "false", "False")]
        if any(not isinstance(rule, str) or not _SUDO.fullmatch(rule) for rule in rules):
            self._ignored.append(f"{where}.sudo (only rules like ALL=(ALL) NOPASSWD:ALL)")
        elif rules:
            content = "".join(f"{name} {rule}\n" for rule in rules).encode()
            yield WriteFile(what=f"{where}.sudo", path=f"/etc/sudoers.d/90-{name}", content=content, mode=0o440)

    def _root_keys(self) -> Iterator[Action]:
        if keys := _keys(self._root["ssh_authorized_keys"], "ssh_authorized_keys"):
            yield Authorize(what="ssh_authorized_keys", user="root", keys=keys)

    def _files(self) -> Iterator[Action]:
        for number, given in enumerate(_list(self._root["write_files"], "write_files")):
            where = f"write_files[{number}]"
            file = _mapping(given, where)
            known = {"path", "content", "permissions", "owner", "encoding"}
            encoding = _text(file.get("encoding", ""), f"{where}.encoding")
            unknown = [_shown(key) for key in file if key not in known]
            if encoding not in _PLAIN | _BASE64:
                unknown.append("encoding")
            if unknown:  # it would be another file without them
                self._ignored.append(f"{where} (because of {', '.join(unknown)})")
            else:
                yield from _file(file, where, encoded=encoding in _BASE64)

    def _packages(self) -> Iterator[Action]:
        what = "a package's name, or name=version"
        given = enumerate(_list(self._root["packages"], "packages"))
        names = [_matching(_PACKAGE, name, f"packages[{number}]", what) for number, name in given]
        if names:
            yield Run(what="packages (apt-get update)", argv=(*APT, "update"))
            yield Run(what="packages", argv=(*APT, "install", "-y", "--no-install-recommends", "--", *names))

    def _commands(self) -> Iterator[Action]:
        for number, command in enumerate(_list(self._root["runcmd"], "runcmd")):
            where = f"runcmd[{number}]"
            if isinstance(command, str):
                self._ignored.append(f"{where} (a string: write [sh, -c, '...'])")
                continue
            argv = tuple(_text(argument, where) for argument in _list(command, where))
            if not argv or not argv[0] or any("\0" in argument for argument in argv):
                raise Invalid(f"{where} is no command: give a list that begins with a program")
            if len(command_line(argv).encode()) > MAX_COMMAND:
                raise Invalid(f"{where} is too long for a command line: write a file, and run that")
            yield Run(what=where, argv=argv)


def _shown(key: str) -> str:
    """A key for people; only words that cloud-init knows, for anything else may have slipped out of a value."""
    return key if key in _CLOUD_INIT_KEYS else "a key that cloud-init does not know either"


_WORDS = """
ansible apk_repos apt apt_pipelining apt_preserve_sources_list autoinstall bootcmd byobu_by_default ca-certs
ca_certs chef chpasswd cloud_config_modules cloud_final_modules cloud_init_modules datasource device_aliases
disable_ec2_metadata disable_root disk_setup fan final_message fqdn fs_setup groups growpart grub_dpkg hostname
keyboard landscape locale locale_configfile lxd manage_etc_hosts mcollective merge_how merge_type
mount_default_fields mounts network no_ssh_fingerprints ntp output package_reboot_if_required package_update
package_upgrade password phone_home power_state prefer_fqdn_over_hostname preserve_hostname puppet random_seed
resize_rootfs resolv_conf rh_subscription rsyslog runcmd salt_minion snap spacewalk ssh ssh_deletekeys
ssh_genkeytypes ssh_import_id ssh_keys ssh_pwauth swap timezone ubuntu_pro user vendor_data wireguard yum_repos
zypper doas expiredate gecos hashed_passwd homedir inactive lock_passwd no_create_home no_log_init no_user_group
passwd plain_text_passwd primary_group selinux_user snapuser ssh_redirect_user system uid append defer encoding
source
"""
_CLOUD_INIT_KEYS = frozenset(_WORDS.split())


def _file(file: Mapping[str, Any], where: str, *, encoded: bool) -> Iterator[Action]:
    path, content = _path(file.get("path"), where), _text(file.get("content", ""), f"{where}.content")
    mode = _MODE.fullmatch(_text(file.get("permissions", "0644"), f"{where}.permissions"))
    if mode is None:
        raise Invalid(f"{where}.permissions is no mode: write it in octal, like '0644'")
    yield WriteFile(
        what=where, path=path, content=_decoded(content, where) if encoded else content.encode(), mode=int(mode[2], 8)
    )
    if "owner" in file:
        owner = _matching(_OWNER, file["owner"], f"{where}.owner", "an owner: user or user:group")
        yield Run(what=f"{where}.owner", argv=("chown", "--", owner, path))


def _path(given: Any, where: str) -> str:
    text = _text(given, f"{where}.path")
    path = PurePosixPath(f"/{text.lstrip('/')}" if text.startswith("/") else text)  # it takes `//` for another root
    if not path.is_absolute() or not path.name or ".." in path.parts or "\0" in str(path):
        raise Invalid(f"{where}.path is no path of a file: give an absolute one without `..`")
    if path.is_relative_to(STATE):
        raise Invalid(f"{where}.path is below {STATE}, where AgentMetal keeps what it knows: choose another one")
    if path.parts[-2:] == (".ssh", "authorized_keys"):
        raise Invalid(f"{where}.path would take away keys that log in, ours too: use ssh_authorized_keys, which adds")
    return str(path)


def _decoded(content: str, where: str) -> bytes:
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(f"{where}.content is not base64: encode it, or leave the encoding out") from None


def _keys(given: Any, where: str) -> tuple[str, ...]:
    what = "a public key: one line, `ssh-ed25519 AAAA…`"
    return tuple(
        _matching(_KEY, key.strip() if isinstance(key, str) else key, f"{where}[{number}]", what)
        for number, key in enumerate(_list(given, where))
    )


def _names(given: Any, where: str) -> tuple[str, ...]:
    """Group names, as a list or with commas between them."""
    listed = given.split(",") if isinstance(given, str) else _list(given, where)
    names = [name.strip() if isinstance(name, str) else name for name in listed]
    return tuple(_matching(_NAME, name, where, "names of groups") for name in names if name != "")


def _matching(pattern: re.Pattern[str], value: Any, where: str, what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise Invalid(f"{where} is not {what}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise Invalid(f"{where} is not text")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if value == "":  # `packages:` with nothing behind it
        return []
    if not isinstance(value, list):
        raise Invalid(f"{where} is not a list")
    return value


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Invalid(f"{where} is not a mapping of keys to values")
    return value
