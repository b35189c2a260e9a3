"""Which cluster and which object a command line means."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentmetal.cli.connection import choose, named
from agentmetal.core.errors import Invalid, NotFound
from agentmetal.core.resource import Key


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home/.kube").mkdir(parents=True)
    (tmp_path / "home/.kube/config").touch()
    return tmp_path / "home"


@pytest.mark.parametrize("kind", ["instance", "Instance", "instances", "inst", "instances.agentmetal.io"])
def test_a_kind_has_many_names(kind: str) -> None:
    assert named(kind, "web", "shop") == Key("Instance", "shop", "web")
    assert named(f"{kind}/web", "", "shop") == Key("Instance", "shop", "web")


@pytest.mark.parametrize(("kind", "name"), [("instance", ""), ("instance/web", "web"), ("instance/", "")])
def test_an_object_is_named_exactly_once(kind: str, name: str) -> None:
    with pytest.raises(Invalid, match="name one object"):
        named(kind, name, "shop")


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Invalid, match=r"'pod' is none .* use one of Provider, Instance"):
        named("pod", "web", "shop")


def test_the_named_kubeconfig_wins(tmp_path: Path, home: Path) -> None:
    assert choose(Path("mine"), {"KUBECONFIG": "other"}, tmp_path, home) == Path("mine")


def test_the_environment_comes_before_the_development_system(tmp_path: Path) -> None:
    (tmp_path / ".agentmetal").mkdir()
    (tmp_path / ".agentmetal/admin.kubeconfig").touch()
    assert choose(None, {"KUBECONFIG": "other"}, tmp_path, None) == Path("other")
    assert choose(None, {}, tmp_path, None) == tmp_path / ".agentmetal/admin.kubeconfig"


def test_several_files_are_not_guessed_at(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="names 2 files"):
        choose(None, {"KUBECONFIG": "a:b"}, tmp_path, None)


def test_the_user_s_own_cluster_is_used_only_by_a_plugin_of_kubectl(tmp_path: Path, home: Path) -> None:
    assert choose(None, {}, tmp_path, home) == home / ".kube/config"
    with pytest.raises(NotFound, match="no cluster is named"):
        choose(None, {}, tmp_path, None)
