"""What the tests of this directory record."""

from agentmetal.core.audit import AuditAction, AuditEntry


def entry(number: int = 1, reasoning: str = "because") -> AuditEntry:
    return AuditEntry(
        agent="instance",
        action=AuditAction.EXECUTE,
        resource="Instance shop/web-1 (uid-1)",
        timestamp="2026-01-01T00:00:00Z",
        actor="alice",
        operation=f"op-{number}",
        reasoning=reasoning,
        digest="sha256:abc",
        steps=("provision_server", "wait_for_ssh"),
        risk="Moderate",
        outcome="Succeeded",
        duration_ms=12,
    )
