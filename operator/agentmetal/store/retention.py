"""What every store refuses to remove. Pure; the removing itself is each store's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentmetal.core.audit import AuditRecord, Head
from agentmetal.core.errors import Invalid


def refuse_prune(upto: Head, start: Head, places: Mapping[str, int], gaps: Sequence[AuditRecord]) -> None:
    """Raises Invalid when the records up to this one may not be removed.

    `places` says where the trail has the record, `gaps` are those that nobody has acknowledged, oldest first.
    """
    if places.get(upto.hash) != upto.sequence or upto.sequence <= start.sequence:
        raise Invalid(
            f"record {upto.sequence} with hash {upto.hash[:12]!r} is not in the trail after its start"
            f" {start.sequence}: name a newer checkpoint of this trail"
        )
    if gaps and gaps[0].sequence <= upto.sequence:
        raise Invalid(f"record {gaps[0].sequence} is a gap that nobody has acknowledged: acknowledge it first")
