"""What counts as left behind: not the connections that are pooled."""

from __future__ import annotations

from bench.leaks import sockets_to

TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0 0 10 0
   1: 0100007F:C001 0100007F:7651 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 20 4 30 10 -1
   2: 0100007F:7651 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 333 1 0 20 4 30 10 -1
"""


def test_only_connections_to_that_port_are_pooled_ones() -> None:
    assert sockets_to(0x7651, TABLE) == {"socket:[222]"}
