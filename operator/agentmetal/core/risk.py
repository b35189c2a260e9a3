"""The three risks, ordered. Called by tools (which compute one) and by the engine (which compares them)."""

from __future__ import annotations

from enum import StrEnum


class Risk(StrEnum):
    """How much a step can hurt. A plan is as risky as its riskiest step; unknown is Dangerous."""

    SAFE = "Safe"  # reads
    MODERATE = "Moderate"  # creates or changes
    DANGEROUS = "Dangerous"  # deletes data or machines; waits for a human

    @property
    def rank(self) -> int:
        """Position in the order Safe < Moderate < Dangerous."""
        return _ORDER.index(self)

    def exceeds(self, other: Risk) -> bool:
        """Is this risk above the other?"""
        return self.rank > other.rank

    @classmethod
    def highest(cls, risks: list[Risk] | tuple[Risk, ...]) -> Risk:
        """The highest of the risks; Safe when there are none."""
        return max(risks, key=lambda risk: risk.rank, default=cls.SAFE)


_ORDER = (Risk.SAFE, Risk.MODERATE, Risk.DANGEROUS)
