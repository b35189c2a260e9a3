"""Settings are data: from a mapping, refused with sentences, never from the environment by themselves."""

from pathlib import Path

import pytest

from agentmetal.agents.provider.api import ProviderType
from agentmetal.core.errors import Invalid
from agentmetal.settings import Settings


def test_the_defaults_are_those_of_a_pod() -> None:
    settings = Settings.from_environment({})
    assert settings.namespace == "agentmetal-system"
    assert settings.kubeconfig is None
    assert settings.workers == 32
    assert (settings.lease_seconds, settings.renew_seconds, settings.retry_seconds) == (15, 10, 2)
    assert not settings.development
    assert settings.provider_types == ()
    assert settings.listen_address == "0.0.0.0"  # noqa: S104 - nothing is bound here
    assert settings.identity


def test_each_field_is_a_variable() -> None:
    environment = {
        "AGENTMETAL_KUBECONFIG": "/tmp/kubeconfig",
        "AGENTMETAL_STORE_PATH": "/data/audit.db",
        "AGENTMETAL_DEVELOPMENT": "true",
        "AGENTMETAL_PROVIDER_TYPES": "Nspawn, Fake",
        "AGENTMETAL_WORKERS": "4",
        "AGENTMETAL_METRICS_PORT": "0",
        "AGENTMETAL_LOG_FORMAT": "text",
        "PATH": "/usr/bin",
    }
    settings = Settings.from_environment(environment)
    assert settings.kubeconfig == Path("/tmp/kubeconfig")
    assert settings.store_path == Path("/data/audit.db")
    assert settings.provider_types == (ProviderType.NSPAWN, ProviderType.FAKE)
    assert (settings.workers, settings.metrics_port, settings.log_format) == (4, 0, "text")


def test_in_development_metrics_are_served_locally() -> None:
    assert Settings(development=True).listen_address == "127.0.0.1"
    assert Settings(development=True, metrics_address="::").listen_address == "::"


def test_the_variables_that_kubernetes_makes_for_services_are_not_ours() -> None:
    links = {
        "AGENTMETAL_METRICS_SERVICE_HOST": "10.0.0.7",
        "AGENTMETAL_METRICS_SERVICE_PORT": "8080",
        "AGENTMETAL_METRICS_SERVICE_PORT_HTTP": "8080",
        "AGENTMETAL_METRICS_PORT": "tcp://10.0.0.7:8080",
        "AGENTMETAL_METRICS_PORT_8080_TCP": "tcp://10.0.0.7:8080",
        "AGENTMETAL_METRICS_PORT_8080_TCP_ADDR": "10.0.0.7",
        "AGENTMETAL_METRICS_PORT_8080_TCP_PORT": "8080",
        "AGENTMETAL_METRICS_PORT_8080_TCP_PROTO": "tcp",
    }
    assert Settings.from_environment(links).metrics_port == 8080


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"AGENTMETAL_WROKERS": "4"}, r"wrokers \(AGENTMETAL_WROKERS\): Extra inputs"),
        ({"AGENTMETAL_WORKERS": "0"}, r"workers \(AGENTMETAL_WORKERS\)"),
        ({"AGENTMETAL_LOG_LEVEL": "loud"}, r"log_level \(AGENTMETAL_LOG_LEVEL\)"),
        ({"AGENTMETAL_PROVIDER_TYPES": "nspawn"}, r"provider_types.0 \(AGENTMETAL_PROVIDER_TYPES\)"),
        ({"AGENTMETAL_PROVIDER_TYPES": "Nspawn"}, "provider types Nspawn are for development only: set development"),
        ({"AGENTMETAL_FORBIDDEN_NETWORKS": "10.0.0.1/8"}, r"forbidden_networks.0.* \(AGENTMETAL_FORBIDDEN_NETWORKS\)"),
        ({"AGENTMETAL_RENEW_SECONDS": "20"}, "lease_seconds must be above renew_seconds"),
    ],
)
def test_what_is_wrong_is_said_by_name(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        Settings.from_environment(environment)


def test_several_replicas_need_a_database() -> None:
    with pytest.raises(Invalid, match="2 replicas cannot share the audit trail in one file: set store_url"):
        Settings.from_environment({"AGENTMETAL_REPLICAS": "2"})
    url = {"AGENTMETAL_REPLICAS": "2", "AGENTMETAL_STORE_URL": "postgresql://me:canary@db/x"}
    assert Settings.from_environment(url).replicas == 2


def test_the_stores_password_is_in_no_text_of_the_settings() -> None:
    environment = {"AGENTMETAL_STORE_URL": "postgresql://me:canary@db/x"}
    settings = Settings.from_environment(environment)
    assert "canary" not in f"{settings!r} {settings} {settings.model_dump_json()}"
    with pytest.raises(Invalid) as refused:
        Settings.from_environment({**environment, "AGENTMETAL_REPLICAS": "none"})
    assert "canary" not in str(refused.value)


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())
