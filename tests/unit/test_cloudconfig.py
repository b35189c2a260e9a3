"""Our own small set of cloud-config: what it asks for, what is told as not understood, what is refused."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmetal.core.errors import Invalid
from agentmetal_tools.cloudconfig import APT, Authorize, CloudConfig, Run, WriteFile, check, parse

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBsS6gQF5SDn4a8QNIvEgZmN4Ra0yA0N9gUY5sp1m3rE ann"


def config(text: str) -> CloudConfig:
    return parse("#cloud-config\n" + text)


def argvs(read: CloudConfig) -> list[tuple[str, ...]]:
    return [action.argv for action in read.actions if isinstance(action, Run)]


def test_nothing_is_asked_for_by_an_empty_text() -> None:
    for text in ("", "{}", "packages:\n", "packages: []\nusers: []\n"):
        assert config(text) == CloudConfig(actions=(), ignored=())


def test_a_user_is_made_with_groups_shell_sudo_and_keys() -> None:
    read = config(
        f"""users:
- name: ann
  groups: [adm, web]
  shell: /bin/bash
  sudo: ALL=(ALL) NOPASSWD:ALL
  ssh_authorized_keys: ['{KEY}']
"""
    )
    assert argvs(read) == [
        ("useradd", "--create-home", "--", "ann"),
        ("groupadd", "--force", "--", "adm"),
        ("groupadd", "--force", "--", "web"),
        ("usermod", "--append", "--groups", "adm,web", "--shell", "/bin/bash", "--", "ann"),
    ]
    assert (
        WriteFile(
            what="users[0].sudo", path="/etc/sudoers.d/90-ann", content=b"ann ALL=(ALL) NOPASSWD:ALL\n", mode=0o440
        )
        in read.actions
    )
    assert read.actions[-1] == Authorize(what="users[0].ssh_authorized_keys", user="ann", keys=(KEY,))


def test_a_user_that_exists_is_no_failure() -> None:
    made, is_there = config("users: [ann]").actions
    assert isinstance(made, Run) and isinstance(is_there, Run)
    assert made.fine == {0, 9}
    assert (is_there.argv, is_there.fine) == (("id", "--", "ann"), frozenset({0})), (
        "9 may also mean: a group has that name"
    )


def test_keys_of_the_top_are_roots() -> None:
    assert config(f"ssh_authorized_keys: ['{KEY}']").actions == (
        Authorize(what="ssh_authorized_keys", user="root", keys=(KEY,)),
    )


def test_files_are_written_as_their_permissions_and_encoding_say() -> None:
    encoded = base64.b64encode(b"\x00\xff").decode()
    read = config(
        f"""write_files:
- path: /etc/motd
  content: |
    hello
  permissions: 0640
  owner: root:adm
- {{path: /srv/x, content: {encoded}, encoding: b64}}
"""
    )
    assert read.actions == (
        WriteFile(what="write_files[0]", path="/etc/motd", content=b"hello\n", mode=0o640),
        Run(what="write_files[0].owner", argv=("chown", "--", "root:adm", "/etc/motd")),
        WriteFile(what="write_files[1]", path="/srv/x", content=b"\x00\xff", mode=0o644),
    )


def test_packages_are_installed_at_once_without_questions() -> None:
    read = config("packages: [nginx, 'jq=1.6-2.1']")
    assert argvs(read) == [
        (*APT, "update"),
        (*APT, "install", "-y", "--no-install-recommends", "--", "nginx", "jq=1.6-2.1"),
    ]


def test_commands_are_argument_vectors_and_numbers_are_text() -> None:
    assert argvs(config("runcmd:\n- [sleep, 1.10]\n- [sh, -c, 'echo $HOME']\n")) == [
        ("sleep", "1.10"),
        ("sh", "-c", "echo $HOME"),
    ]


def test_what_is_not_understood_is_told() -> None:
    read = config(
        """ntp: {enabled: true}
hunter2: {}
users: [default, {name: ann, passwd: x, sudo: 'ALL ALL'}]
write_files: [{path: /x, append: true}, {path: /y, encoding: gz}]
runcmd: [echo hello]
"""
    )
    assert read.ignored == (
        "ntp",
        "a key that cloud-init does not know either",
        "users[0] (there is no default user)",
        "users[1].sudo (only rules like ALL=(ALL) NOPASSWD:ALL)",
        "users[1].passwd",
        "write_files[0] (because of append)",
        "write_files[1] (because of encoding)",
        "runcmd[0] (a string: write [sh, -c, '...'])",
    )
    assert argvs(read) == [("useradd", "--create-home", "--", "ann"), ("id", "--", "ann")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("users: [{name: Ann}]", "users[0].name"),
        ("users: [{name: -r}]", "users[0].name"),
        ("users: [{name: ann, shell: bash}]", "users[0].shell"),
        ("users: [{name: ann, groups: 'a b'}]", "users[0].groups"),
        ("users: [{groups: a}]", "users[0].name"),
        ("users: ann", "users is not a list"),
        ("ssh_authorized_keys: [hello]", "ssh_authorized_keys[0]"),
        (f"ssh_authorized_keys: ['command=\"x\" {KEY}']", "ssh_authorized_keys[0]"),
        ("packages: ['-o=x']", "packages[0]"),
        ("packages: [[nginx, 1.0]]", "packages[0]"),
        ("packages: [openssh-server-]", "packages[0]"),  # apt-get would remove it
        ("packages: ['nginx=1.0-']", "packages[0]"),
        ("write_files: [{path: etc/x}]", "write_files[0].path"),
        ("write_files: [{path: /etc/../x}]", "write_files[0].path"),
        ("write_files: [{path: /var/lib/agentmetal/claim.json}]", "write_files[0].path is below"),
        ("write_files: [{path: //var/lib/agentmetal/claim.json}]", "write_files[0].path is below"),
        ("write_files: [{path: /root/.ssh/authorized_keys}]", "use ssh_authorized_keys"),
        ("write_files: [{path: /x, permissions: rw}]", "write_files[0].permissions"),
        ("write_files: [{path: /x, owner: 'a b'}]", "write_files[0].owner"),
        ("write_files: [{path: /x, content: '*', encoding: b64}]", "write_files[0].content"),
        ("runcmd: [[]]", "runcmd[0] is no command"),
        ("runcmd: [[a, [b]]]", "runcmd[0] is not text"),
        (f'runcmd: [[echo, "{chr(39) * 30_000}"]]', "runcmd[0] is too long"),
        ("- a", "user data is not a mapping"),
        ("a: [1", "near line 2"),
        ("users:\n  - name: ann\n bad: x", "near line 4"),
        ("a: &x 1\nb: *x", "aliases"),
        ("a: 1\na: 2", "twice"),
        ("? [a]\n: b", "no text"),
        ("[" * 3000, "nested too deep"),
        ("a: '\x07'", "characters"),
        ('a: "\\U00110000"', "an escape or a number"),
        ('a: "\\UFFFFFFFF"', "an escape or a number"),
        ('write_files: [{path: /x, content: "\\ud800"}]', "half a character"),
        ('runcmd: [[echo, "\\udfff"]]', "half a character"),
        ("a: " + "x" * 70_000, "longer than"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(text: str, told: str) -> None:
    with pytest.raises(Invalid) as caught:
        config(text)
    assert told in str(caught.value)


def test_a_script_is_not_understood_without_cloud_init() -> None:
    with pytest.raises(Invalid, match="must begin with the line #cloud-config"):
        parse("#!/bin/sh\necho hello\n")


def test_what_is_wrong_never_shows_the_text() -> None:
    for text in (
        "hunter2: *hunter2",
        "a: [hunter2",
        "packages: [hunter2 x]",
        "users: [{name: HUNTER2}]",
        "a: 'hunter2",
    ):
        with pytest.raises(Invalid) as caught:
            config(text)
        assert "hunter2" not in str(caught.value).lower()


def test_for_cloud_init_only_the_form_is_looked_at() -> None:
    check("#!/bin/sh\n: [\n")
    check("#cloud-config\nusers: [default]\nbootcmd: [echo]\na: &x {b: 1}\nc: *x\n")
    with pytest.raises(Invalid, match="line 2"):
        check("#cloud-config\na: ]\n")
    with pytest.raises(Invalid, match="an escape or a number"):
        check(f"#cloud-config\n%YAML {'9' * 5000}.1\n---\na: 1\n")


@given(st.text(max_size=200))
def test_no_text_does_anything_but_be_read_or_refused(text: str) -> None:
    for read in (parse, check):
        with suppress(Invalid):
            read("#cloud-config\n" + text)
