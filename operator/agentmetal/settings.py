"""What can be set about the operator: plain data, read by `app` and `cli` and handed on as arguments.

`from_environment` reads the mapping that it is given and nothing else: each field is a variable in capitals with the
prefix, `AGENTMETAL_STORE_PATH`. Nothing is opened or built here.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from agentmetal.agents.provider.api import ProviderType
from agentmetal.core.errors import Invalid

PREFIX = "AGENTMETAL_"
DEVELOPMENT_TYPES = frozenset({ProviderType.NSPAWN, ProviderType.FAKE})
"""Types that make their users root on this host, or that only pretend."""

CLUSTER_NETWORKS = (
    IPv4Network("10.42.0.0/16"),  # pods of k3s
    IPv4Network("10.43.0.0/16"),  # services of k3s
    IPv4Network("10.96.0.0/12"),  # services of kubeadm and kind
    IPv4Network("10.244.0.0/16"),  # pods of kind, and of kubeadm with flannel
    IPv6Network("fd00:ec2::254/128"),  # a cloud's metadata; the IPv4 one is link-local, and never dialled anyway
)
"""What an inventory may not name where nothing else is set: there is no host of anybody's, but much that listens."""

# A Service named agentmetal-metrics puts AGENTMETAL_METRICS_PORT=tcp://... into every pod of its namespace.
_SERVICE_LINK_NAME = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT_\d+_(TCP|UDP|SCTP)(_|$)")
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")


class Settings(BaseModel):
    """How this operator runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    kubeconfig: Path | None = Field(default=None, description="The cluster to work in. Unset: the one we run in.")
    namespace: str = Field(default="agentmetal-system", description="Where the operator's own Lease is.")
    identity: str = Field(
        default_factory=socket.gethostname, min_length=1, description="What we are called in the Lease."
    )
    state_directory: Path = Field(default=Path("/var/lib/agentmetal"), description="Everything that we keep.")
    store_path: Path = Field(default=Path("/var/lib/agentmetal/audit.db"), description="The audit trail, one file.")
    store_url: SecretStr | None = Field(
        default=None,
        description="The audit trail in PostgreSQL, instead of the file: postgresql://... It holds a password, so it"
        " comes from a Secret (docs/how-to/postgresql.md).",
    )
    replicas: int = Field(
        default=1, ge=1, description="How many operators the Deployment runs: more than one need store_url."
    )
    development: bool = Field(default=False, description="Allow what is for one's own machine only: local machines.")
    provider_types: tuple[ProviderType, ...] = Field(default=(), description="Provider types that may be used.")
    forbidden_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=CLUSTER_NETWORKS,
        description="Networks that are never dialled for SSH, as 10.42.0.0/16,10.43.0.0/16: the cluster's own pods and"
        " services. Setting it replaces the usual ones. Link-local and the like are never dialled anyway.",
    )
    workers: int = Field(default=32, ge=1, le=1024, description="Passes at once. Operations are not counted.")
    metrics_address: str | None = Field(
        default=None, description="Where metrics and health are served. Unset: everywhere; in development only locally."
    )
    metrics_port: int = Field(default=8080, ge=0, le=65535, description="0: any free one.")
    notify_secret: str = Field(
        default="",
        max_length=253,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$",
        description="Secret in our namespace (url, hmac-key, format) that says where people are told. Unset: nowhere.",
    )
    lease_seconds: float = Field(default=15.0, description="How long others wait for us when we are silent.")
    renew_seconds: float = Field(default=10.0, description="When we stop by ourselves, unable to renew the Lease.")
    retry_seconds: float = Field(default=2.0, gt=0, description="Between two tries to take or to renew the Lease.")
    log_format: Literal["json", "text"] = Field(default="json", description="json for machines, text for people.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="From which on.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """The settings that the variables name, the defaults for the rest. Raises Invalid for what it does not know."""
        given = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environment.items()
            if name.startswith(PREFIX) and not _is_service_link(name, value)
        }
        return cls.of(given)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The same, of values by field name: what a command line has. Raises Invalid."""
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            said = "; ".join(_sentence(detail["loc"], detail["msg"]) for detail in error.errors())
            raise Invalid(f"the operator's settings are not valid: {said}") from error

    @property
    def listen_address(self) -> str:
        """Where metrics and health are served."""
        everywhere = "0.0.0.0"  # noqa: S104 - the kubelet and Prometheus come from outside of the pod
        return self.metrics_address or ("127.0.0.1" if self.development else everywhere)

    @field_validator("provider_types", "forbidden_networks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Variables hold lists as `Nspawn,Fake`."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.lease_seconds > self.renew_seconds > self.retry_seconds:
            raise ValueError("lease_seconds must be above renew_seconds, and that above retry_seconds")
        if self.replicas > 1 and self.store_url is None:
            raise ValueError(
                f"{self.replicas} replicas cannot share the audit trail in one file: set store_url to a PostgreSQL"
                " database (docs/how-to/postgresql.md), or run one replica"
            )
        if (only := DEVELOPMENT_TYPES.intersection(self.provider_types)) and not self.development:
            names = ", ".join(sorted(only))
            raise ValueError(f"provider types {names} are for development only: set development, or take them out")
        return self


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK_NAME.search(name) or _SERVICE_LINK_VALUE.match(value))


def _sentence(location: tuple[int | str, ...], said: str) -> str:
    field = ".".join(str(part) for part in location)
    return f"{field} ({PREFIX}{str(location[0]).upper()}): {said}" if location else said.removeprefix("Value error, ")
