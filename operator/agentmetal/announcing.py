"""Who tells people about a written status: Events, and whoever the administrator wants told. Called by `process`."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from agentmetal.clients.webhook import Webhook
from agentmetal.core.clock import Clock
from agentmetal.core.ports import KubeApi
from agentmetal.core.resource import AnyResource
from agentmetal.engine.metrics import Metrics
from agentmetal.kube.events import Events
from agentmetal.kube.notify import Notifier, loader
from agentmetal.kube.secrets import KubeSecrets
from agentmetal.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Announcers:
    """All of them, as one."""

    all: tuple[Events | Notifier, ...]

    def announce(self, before: AnyResource, after: AnyResource) -> None:
        """Tell each; none of them waits."""
        for announcer in self.all:
            announcer.announce(before, after)

    async def close(self) -> None:
        """End them together; each takes a second at most."""
        await asyncio.gather(*(announcer.close() for announcer in self.all))


def announcers(settings: Settings, api: KubeApi, clock: Clock, metrics: Metrics, cluster: str) -> Announcers:
    """Events always; the notifier when a Secret says whom to notify."""
    events = Events(api, clock, settings.identity)
    if not settings.notify_secret:
        return Announcers(all=(events,))
    load = loader(KubeSecrets(api), settings.namespace, settings.notify_secret, development=settings.development)
    notifier = Notifier(Webhook(), load, clock, metrics, cluster=cluster, jitter=random.SystemRandom())
    return Announcers(all=(events, notifier))
