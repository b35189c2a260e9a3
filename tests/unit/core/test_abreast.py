"""Many at a time: as many as wanted, all of them, and none after the first error."""

from __future__ import annotations

import asyncio

import pytest

from agentmetal.core.abreast import abreast

pytestmark = pytest.mark.looptime


async def test_so_many_are_under_way_and_no_more() -> None:
    under_way, most = 0, 0

    async def double(number: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(1.0)
        under_way -= 1
        return 2 * number

    began = asyncio.get_running_loop().time()
    assert sorted(await abreast(4, double, range(10))) == [2 * number for number in range(10)]
    assert most == 4
    assert asyncio.get_running_loop().time() - began == pytest.approx(3.0)


async def test_the_first_error_ends_the_others_and_is_told() -> None:
    asked: list[int] = []

    async def ask(number: int) -> None:
        asked.append(number)
        await asyncio.sleep(number)
        if number == 1:
            raise ConnectionError("no answer")

    with pytest.raises(ConnectionError, match="no answer"):
        await abreast(3, ask, range(1, 100))
    assert asked == [1, 2, 3]
    assert len(asyncio.all_tasks()) == 1
