"""An inventory as a provider of servers. Implements `core.machine.ServerProvider`; made by `memory.SshProviders`.

It reads and writes one file on a host, the claim. Everything else on hosts is the work of tools. It never switches a
host on or off, and it never claims a second host for an owner while another one may hold his claim.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NoReturn

from pydantic import ValidationError

from agentmetal.core.claim import CLAIM_PATH, Claim
from agentmetal.core.errors import ClaimedByOther, Invalid, LimitReached, NotFound, Unavailable
from agentmetal.core.machine import (
    Capabilities,
    Floating,
    FloatingIp,
    Location,
    MachineIdentity,
    Machines,
    OwnerTag,
    SecretKey,
    Server,
    ServerSpec,
    ServerState,
    ServerType,
    Ssh,
    Unusable,
)
from agentmetal.core.resource import Key
from agentmetal.providers.registry import KIND, Account
from agentmetal.providers.ssh.claims import Claims, Locks
from agentmetal.providers.ssh.inventory import IMAGE, Host, Inventory, Place
from agentmetal.providers.ssh.judgement import Judgement
from agentmetal.providers.ssh.sightings import Sighting
from agentmetal.providers.ssh.survey import MAX_AGE, KeyMissing, Survey, loop_time

CLIENT_KEY = "ssh-privatekey"
"""The value in the Provider's Secret that logs in; `agentmetal_tools.hosts` writes it."""
SHOWN_NAMES = 10
SETTLED_SECONDS = 2.0
"""What was seen less long ago is believed before an order is refused."""
MENDED_SECONDS = 0.1
"""A host that could not be used is looked at again when somebody asks after so long: it may have been mended."""
CLAIM_SECONDS = 20.0
"""How long one call goes on trying to claim hosts that turn out to be dead; the next call goes on with the others."""

Closed = Callable[[Account, frozenset[Place]], Awaitable[None]]


class SshProvider:
    """Hands out the hosts of one inventory."""

    def __init__(
        self,
        account: Account,
        inventory: Inventory,
        machines: Machines,
        *,
        cluster: str,
        sightings: Mapping[Place, Sighting],
        locks: Locks,
        closed: Closed,
    ) -> None:
        self.account = account
        self._inventory, self._machines, self._locks, self._closed = inventory, machines, locks, closed
        self._cluster = cluster
        self._survey = Survey(sightings, self._connect)
        self._claims = Claims(self._survey, locks)
        self._judgement = Judgement(
            inventory=inventory,
            sightings=sightings,
            cluster=cluster,
            namespace=account.namespace,
            key_secret=self._key.name,
        )

    @staticmethod
    def key_of(account: Account) -> Key:
        """Whom its connections are kept for."""
        return Key(KIND, account.namespace, account.name)

    @property
    def places(self) -> tuple[Place, ...]:
        """Where its hosts are."""
        return self._inventory.places

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(hosts=True, power=False, makes_servers=False, floating=Floating.LOCAL)

    async def list_servers(self) -> tuple[Server, ...]:
        """Every host that is claimed, by whomever, as last seen."""
        await self._survey.complete()
        return tuple(server for server in map(self._server, self._inventory.hosts.values()) if server.owner is not None)

    async def find_server(self, name: str) -> Server | None:
        """The claimed host whose owner calls it so. Raises Unavailable while a silent host may be the one."""
        await self._survey.complete()
        if (found := self._named(name)) is not None:
            return self._server(found)
        self._refuse_in_doubt(name)
        return None

    async def get_server(self, server_id: str) -> Server:
        host = self._host(server_id)
        return self._server(host, await self._survey.look(host.place))

    async def provision_server(self, spec: ServerSpec) -> Server:
        self._check(spec)
        claim = _claim(spec.owner, spec.name)
        async with self._locks.of(f"owner {spec.owner}"):
            await self._survey.complete()
            if (held := self._held_by(spec) or await self._held_after_all(spec)) is not None:
                return await self.get_server(held.name)
            tried: set[str] = set()
            if (host := await self._claimed_one(spec, claim, tried)) is None:
                fitting = [host.place for host in self._inventory.in_order_for(spec)]
                await self._survey.refreshed(SETTLED_SECONDS, places=fitting)
                host = await self._claimed_one(spec, claim, tried)
            if host is None:
                raise LimitReached(self._taken(spec))
            return self._server(host)

    async def decommission_server(self, server_id: str, owner: OwnerTag) -> None:
        """Take the claim off; a host that is not in the inventory (any more) is none of ours to touch."""
        host = self._inventory.hosts.get(server_id)
        if host is not None:
            await self._claims.release(host.place, owner)

    async def adopt_server(self, server_id: str, name: str, owner: OwnerTag, *, was: OwnerTag | None) -> Server:
        host = self._host(server_id)
        if same := self._inventory.same_machine.get(server_id):
            raise Invalid(f"host {server_id!r} is in the inventory as {same[0]!r} too: take one of them out")
        await self._claims.hand_over(host.place, _claim(owner, name), was)
        return self._server(host)

    # -- what an inventory has not -------------------------------------------------------------------------------------

    async def start_server(self, server_id: str) -> None:
        self._no_power(server_id)

    async def stop_server(self, server_id: str, *, force: bool = False) -> None:
        self._no_power(server_id)

    async def reboot_server(self, server_id: str, *, force: bool = False) -> None:
        self._no_power(server_id)

    async def rescue_server(self, server_id: str) -> None:
        self._no_power(server_id)

    async def rebuild_server(self, server_id: str, spec: ServerSpec) -> None:
        self._host(server_id)
        raise Invalid(f"host {server_id!r} is from an inventory: what is on its disks is not ours to replace")

    async def resize_server(self, server_id: str, type: str) -> None:
        self._host(server_id)
        raise Invalid(f"host {server_id!r} is from an inventory: it stays as big as it is")

    def runs_cloud_init(self, image: str) -> bool:
        return False

    # -- what there is -------------------------------------------------------------------------------------------------

    async def list_unusable(self) -> tuple[Unusable, ...]:
        """Waits a bounded while for what was not looked at recently; says nothing of hosts that are still to be."""
        await self._survey.refreshed(MAX_AGE, troubled=MENDED_SECONDS)
        return self._judgement.unusable()

    async def list_floating_ips(self) -> tuple[FloatingIp, ...]:
        return tuple(FloatingIp(address=address) for address in self._inventory.floating)

    async def assign_floating_ip(self, address: str, server_id: str) -> None:
        self._check_floating(address)
        self._host(server_id)

    async def unassign_floating_ip(self, address: str) -> None:
        self._check_floating(address)

    async def list_server_types(self) -> tuple[ServerType, ...]:
        """As small as the smallest host of that type that was seen; zeros before any was."""
        return tuple(self._type(name) for name in _distinct(host.type for host in self._inventory.hosts.values()))

    async def list_images(self) -> tuple[str, ...]:
        return (IMAGE,)

    async def list_locations(self) -> tuple[Location, ...]:
        hosts = self._inventory.hosts.values()
        return tuple(
            Location(
                name=name,
                failure_domains=_distinct(host.failure_domain for host in hosts if host.location == name),
            )
            for name in _distinct(host.location for host in hosts)
        )

    async def close(self) -> None:
        await self._survey.close()
        await self._closed(self.account, frozenset(self.places))

    # -- inside --------------------------------------------------------------------------------------------------------

    @property
    def _key(self) -> SecretKey:
        return SecretKey(namespace=self.account.namespace, name=f"{self.account.name}-ssh", key=CLIENT_KEY)

    async def _connect(self, place: Place) -> Ssh:
        identity = MachineIdentity(
            owner=self.key_of(self.account),
            server_id=place.name,
            address=place.address,
            port=place.port,
            user=place.user,
            host_key=place.host_key,
            client_key=self._key,
        )
        try:
            return await self._machines.connect(identity)
        except NotFound as error:  # hosts are silent, never "not found": this is the Secret with our key
            raise KeyMissing(f"hosts cannot be looked at: {error.message}") from error

    def _host(self, server_id: str) -> Host:
        if (host := self._inventory.hosts.get(server_id)) is not None:
            return host
        names = sorted(self._inventory.hosts)
        known = (", ".join(names[:SHOWN_NAMES]) or "none") + (", …" if len(names) > SHOWN_NAMES else "")
        raise NotFound(
            f"host {server_id!r} is not in the inventory of Provider {self.account.name!r} (it names: {known})"
        )

    def _server(self, host: Host, sighting: Sighting | None = None) -> Server:
        sighting = sighting or self._survey.sightings[host.place]
        return Server(
            id=host.name,
            name=sighting.server_name or host.name,
            owner=sighting.owner,
            type=host.type,
            image=IMAGE,
            location=host.location,
            state=ServerState.RUNNING,
            addresses=(host.place.address,),
            port=host.place.port,
            user=host.place.user,
            host_key=host.place.host_key,
            failure_domain=host.failure_domain,
            silent=sighting.trouble.message if sighting.trouble else "",
        )

    def _sighting(self, host: Host) -> Sighting:
        return self._survey.sightings[host.place]

    def _named(self, name: str) -> Host | None:
        hosts = self._inventory.hosts.values()
        return next((host for host in hosts if name and self._sighting(host).server_name == name), None)

    def _held_by(self, spec: ServerSpec) -> Host | None:
        """The host that is the owner's already. Raises ClaimedByOther when somebody else has that name."""
        named = self._named(spec.name)
        if named is not None and (owner := self._sighting(named).owner) != spec.owner:
            raise ClaimedByOther(f"the name {spec.name!r} belongs to {str(owner)!r}: choose another name")
        hosts = self._inventory.hosts.values()
        held = named or next((host for host in hosts if self._sighting(host).owner == spec.owner), None)
        if held is not None and not held.fits(spec):  # it says so itself, and no key of its is pinned yet
            raise ClaimedByOther(
                f"host {held.name!r} bears the claim of {str(spec.owner)!r} and is not what was ordered: correct its"
                f" entry in the inventory, or remove {CLAIM_PATH} there"
            )
        return held

    async def _held_after_all(self, spec: ServerSpec) -> Host | None:
        """Ask the hosts that may be the owner's since before. Raises Unavailable as long as that is not certain."""
        if doubtful := self._doubtful(spec.name):
            await self._survey.refreshed(SETTLED_SECONDS, places=[host.place for host in doubtful])
            self._refuse_in_doubt(spec.name)
        return self._held_by(spec)

    def _doubtful(self, name: str) -> list[Host]:
        now = loop_time()
        return [host for host in self._inventory.hosts.values() if self._sighting(host).may_hold(name, now)]

    def _refuse_in_doubt(self, name: str) -> None:
        if not (hosts := self._doubtful(name)):
            return
        names = ", ".join(repr(host.name) for host in hosts[:SHOWN_NAMES])
        raise Unavailable(
            f"no answer from {names}, where server {name!r} may have been put before: waiting a while for that; what is"
            " gone for good can be taken out of the inventory",
            retry_after=15.0,
        )

    async def _claimed_one(self, spec: ServerSpec, claim: Claim, tried: set[str]) -> Host | None:
        """Claim the first host that is free. A lost race goes on with the next."""
        clones, deadline = self._judgement.clones(), loop_time() + CLAIM_SECONDS
        for host in self._inventory.in_order_for(spec):
            if host.name in tried or host.name in clones or not self._sighting(host).free:
                continue
            if loop_time() > deadline:
                raise Unavailable("hosts that were free do not answer any more: others are tried next")
            tried.add(host.name)
            if await self._claims.take(host.place, claim):
                return host
        return None

    def _taken(self, spec: ServerSpec) -> str:
        """Why there is none left."""
        hosts = [host for host in self._inventory.hosts.values() if host.fits(spec)]
        wanted = [f"type {spec.type!r}"]
        wanted += [f"location {spec.location!r}"] if spec.location else []
        wanted += [f"failure domain {spec.failure_domain!r}"] if spec.failure_domain else []
        wanted += [f"label {label}={value}" for label, value in sorted(spec.labels.items())]
        seen = [self._sighting(host) for host in hosts]
        silent = sum(sighting.trouble is not None for sighting in seen)
        answering = [sighting for sighting in seen if sighting.trouble is None]
        ours = sum(sighting.owner is not None and self._judgement.ours(sighting.owner) for sighting in answering)
        foreign = sum(sighting.owner is not None for sighting in answering) - ours
        named = sum(host.name in spec.avoid and self._sighting(host).free for host in hosts)
        counts = f"{ours} claimed, {foreign} somebody else's, {silent} silent"
        counts += f", {named} named by spec.adopt of other Instances" if named else ""
        if unfit := len(hosts) - ours - foreign - silent - named:
            full = next((sighting.unwritable for sighting in answering if sighting.unwritable), "")
            counts += f", {unfit} unusable" + (f" ({full})" if full else "")
        return (
            f"no host is free: {len(hosts)} of Provider {self.account.name!r} fit ({', '.join(wanted)}): {counts};"
            " add hosts to the inventory, or release some"
        )

    def _check(self, spec: ServerSpec) -> None:
        hosts = self._inventory.hosts.values()
        if not hosts:
            raise Invalid(f"the inventory of Provider {self.account.name!r} is empty: add hosts")
        choices = {
            "server type": (spec.type, _distinct(host.type for host in hosts)),
            "image": (spec.image, (IMAGE,)),
            "location": (spec.location, ("", *_distinct(host.location for host in hosts))),
            "failure domain": (spec.failure_domain, ("", *_distinct(host.failure_domain for host in hosts))),
        }
        for what, (value, known) in choices.items():
            if value not in known:
                shown = ", ".join(filter(None, known[: SHOWN_NAMES + 1]))
                raise Invalid(f"{what} {value!r} does not exist: use one of {shown}")

    def _check_floating(self, address: str) -> None:
        if address not in self._inventory.floating:
            known = ", ".join(self._inventory.floating[:SHOWN_NAMES]) or "none"
            raise NotFound(f"floating address {address!r} is not in the inventory (it names: {known})")

    def _no_power(self, server_id: str) -> NoReturn:
        self._host(server_id)
        raise Invalid(
            f"host {server_id!r} is from an inventory and has no power control: switch it by hand, or from inside"
        )

    def _type(self, name: str) -> ServerType:
        sightings = [self._sighting(host) for host in self._inventory.hosts.values() if host.type == name]
        sizes = [sighting.size for sighting in sightings]
        complete = all(sighting.looked_at is not None for sighting in sightings)
        return ServerType(
            name=name,
            vcpus=min((size.vcpus for size in sizes if size.vcpus), default=0),
            memory_mb=min((size.memory_mb for size in sizes if size.memory_mb), default=0),
            disk_gb=min((size.disk_gb for size in sizes if size.disk_gb), default=0),
            available=sum(sighting.free for sighting in sightings) if complete else None,
        )


def _claim(owner: OwnerTag, name: str) -> Claim:
    try:
        return Claim.of(owner, server=name)
    except ValidationError as error:
        raise Invalid(
            f"name {name!r} of owner {str(owner)!r} cannot be written into a claim: use a-z, 0-9, - and ."
        ) from error


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    """Each once, in the order of the alphabet: the inventory's own order is its editor's."""
    return tuple(sorted(set(values)))
