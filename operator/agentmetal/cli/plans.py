"""`plan`, `approve`, `reject`: look at a plan before it runs, and decide about exactly that one."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from agentmetal.cli.connection import Cluster, Kind, Kubeconfig, Namespace, agent_of, connected, named, warned
from agentmetal.cli.output import answers, news
from agentmetal.core.errors import AgentMetalError, Conflict, Forbidden, Invalid, NotFound
from agentmetal.core.kubetypes import SELF_SUBJECT_ACCESS_REVIEW
from agentmetal.core.resource import GROUP, Annotation, AnyResource, Key
from agentmetal.engine.text import plan_lines, preview_lines, waits
from agentmetal.preview import preview
from agentmetal.settings import Settings

TRIES = 10
"""Somebody would have to write to the object between our read and our write this often in a row."""
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Digest = Annotated[str, typer.Option(help="Only if the plan has this digest.")]
OptionalName = Annotated[str, typer.Argument(help="Name of the object.")]


def plan(
    kind: Annotated[str, typer.Argument(help="Kind, plural or short name; or kind/name.")] = "",
    name: OptionalName = "",
    file: Annotated[
        Path | None, typer.Option("--filename", "-f", help="What would be done if it were applied.")
    ] = None,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show the plan of an object, or the one a file would lead to. Changes nothing."""
    if (file is None) == (not kind):
        raise Invalid("name an object, as KIND NAME, or a file by -f")
    asyncio.run(_plan_file(file, namespace, kubeconfig) if file else _plan_live(kind, name, namespace, kubeconfig))


def approve(
    kind: Kind,
    name: OptionalName = "",
    digest: Digest = "",
    yes: Yes = False,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Let the plan that an object shows run, and no other."""
    asyncio.run(_decide(Annotation.APPROVE, kind, name, digest, "", yes, namespace, kubeconfig))


def reject(
    kind: Kind,
    name: OptionalName = "",
    reason: Annotated[str, typer.Option(help="Why; it goes into the audit trail.")] = "",
    digest: Digest = "",
    yes: Yes = False,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Refuse the plan that an object shows: it is not proposed again until something changes."""
    asyncio.run(_decide(Annotation.REJECT, kind, name, digest, reason, yes, namespace, kubeconfig))


async def _plan_live(kind: str, name: str, namespace: str, kubeconfig: Path | None) -> None:
    async with connected(kubeconfig, namespace) as cluster:
        for line in plan_lines(await cluster.get(named(kind, name, cluster.namespace))):
            answers().print(line, markup=False)


async def _plan_file(file: Path, namespace: str, kubeconfig: Path | None) -> None:
    async with connected(kubeconfig, namespace) as cluster:
        for document in _documents(file):
            body = await _dry_run(cluster, document)
            place = str(Key(body["kind"], body["metadata"]["namespace"], body["metadata"]["name"]))
            try:
                found = await preview(cluster.api, _settings(cluster), body)
            except AgentMetalError as error:
                raise type(error)(
                    f"{place} is valid, but its plan cannot be made from here, for the world cannot be seen:"
                    f" {error.message}. Nothing was changed"
                ) from error
            lines = (f"{place}: would wait: {found.waits}",) if found.waits else preview_lines(place, found.plan)
            for line in (*lines, "Nothing was changed"):
                answers().print(line, markup=False)


async def _dry_run(cluster: Cluster, document: dict[str, Any]) -> dict[str, Any]:
    """The object as the API server would store it: defaults filled in, rules applied."""
    info = agent_of(str(document.get("kind", ""))).kind.info
    metadata = {"namespace": cluster.namespace, **(document.get("metadata") or {})}
    try:
        live = await cluster.api.get(info.type, metadata["namespace"], str(metadata.get("name", "")))
    except NotFound:
        return await cluster.api.create(info.type, {**document, "metadata": metadata}, dry_run=True)
    spec = {**document.get("spec", {})}
    if "fence" in live["spec"]:  # the operator's own field: applying a file leaves it as it is
        spec.setdefault("fence", live["spec"]["fence"])
    patch = [{"op": "replace", "path": "/spec", "value": spec}]
    return await cluster.api.patch(info.type, metadata["namespace"], metadata["name"], patch, dry_run=True)


def _documents(file: Path) -> list[dict[str, Any]]:
    try:
        found = [document for document in yaml.safe_load_all(file.read_text()) if document]
    except OSError as error:
        raise NotFound(f"file {str(file)!r} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise Invalid(f"file {str(file)!r} is not YAML: {error}") from error
    if not found or not all(isinstance(document, dict) for document in found):
        raise Invalid(f"file {str(file)!r} holds no objects")
    return found


def _settings(cluster: Cluster) -> Settings:
    """Beside a development system's kubeconfig lie its machines; of any other cluster no machine is reached."""
    state = cluster.kubeconfig.absolute().parent
    local = (state / "operator.json").exists()
    return Settings.of(
        {"state_directory": state, "development": local, "provider_types": "Nspawn,SSH" if local else "SSH"}
    )


async def _decide(
    annotation: str, kind: str, name: str, digest: str, reason: str, yes: bool, namespace: str, kubeconfig: Path | None
) -> None:
    async with connected(kubeconfig, namespace) as cluster:
        key = named(kind, name, cluster.namespace)
        shown = await cluster.get(key)
        wanted = _waiting(shown, digest)
        for line in plan_lines(shown, how_to_decide=False):
            answers().print(line, markup=False)
        verb = annotation.rpartition("/")[2]
        if not yes:
            await _ask(cluster, key, verb)
        body = await _annotate(cluster, key, annotation, wanted, reason)
        stamp = str(body["metadata"].get("annotations", {}).get(Annotation.DECISION, ""))
        warned(cluster, lambda text: news().print(text, markup=False))
        if not stamp.startswith(f"{verb} {wanted} "):
            raise Invalid(f"nothing was decided: the API server wrote no decision on {key}")
        answers().print(f"{key}: {stamp}", markup=False)


async def _ask(cluster: Cluster, key: Key, verb: str) -> None:
    """Is it meant? Nobody is asked who could not answer, or whose answer would be refused."""
    if not sys.stdin.isatty():
        raise Invalid("nothing was decided: use --yes where nobody can be asked")
    if not await _may_approve(cluster, key):
        plural = agent_of(key.kind).kind.info.plural
        raise Forbidden(f'nothing was decided: you lack the verb "approve" on {plural} in namespace {key.namespace!r}')
    if not typer.confirm(f"{verb.capitalize()} this plan?"):
        raise typer.Exit(1)


async def _may_approve(cluster: Cluster, key: Key) -> bool:
    """As the admission rule will ask about the decision."""
    attributes = {"group": GROUP, "resource": agent_of(key.kind).kind.info.plural, "verb": "approve"}
    spec = {"resourceAttributes": {**attributes, "namespace": key.namespace, "name": key.name}}
    answer = await cluster.api.create(SELF_SUBJECT_ACCESS_REVIEW, {"spec": spec})
    return bool(answer["status"]["allowed"])


async def _annotate(cluster: Cluster, key: Key, annotation: str, digest: str, reason: str) -> dict[str, Any]:
    """Write the decision to the very version that shows the plan; a status write in between only means: look again."""
    for _ in range(TRIES):
        resource = await cluster.get(key)
        _waiting(resource, digest)
        annotations = {annotation: digest} | ({Annotation.REASON: reason} if reason else {})
        metadata = {"resourceVersion": resource.metadata.resource_version, "annotations": annotations}
        try:
            return await cluster.api.patch(resource.info.type, key.namespace, key.name, {"metadata": metadata})
        except Conflict:
            continue
    raise Conflict(f"{key} changes faster than a decision can be written: try again")


def _waiting(resource: AnyResource, digest: str) -> str:
    """The digest of the plan that waits; only that one may be decided about."""
    found = resource.status.plan
    if found is None or found.digest is None or not waits(resource):
        raise Invalid(f"{resource.key} has no plan that waits: {plan_lines(resource)[0]}")
    if digest and digest not in (found.digest, found.digest.removeprefix("sha256:"), found.short_digest):
        raise Conflict(f"{resource.key} now shows plan {found.short_digest}, not {digest!r}: look at that one first")
    return found.digest
