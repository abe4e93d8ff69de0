"""Computes the home of a unique key among several databases. No I/O."""

from collections.abc import Collection
from zlib import crc32


def home_of(dbids: Collection[int], funcname: str, uniqkey: str) -> int:
    """Return the id of the database of a unique key: rendezvous on the CRC-32 of function and key.

    If a database is added, only the keys that now belong to it move. If one is removed, only its keys move.

    Args:
        dbids: the ids of the databases; at least one.
        funcname: the function.
        uniqkey: the key.

    """
    key = crc32(f"{funcname}\0{uniqkey}".encode())
    return max(dbids, key=lambda dbid: _weight(key, dbid))


def _weight(key: int, dbid: int) -> int:
    """Mix a CRC with an id: CRCs of similar texts differ by a constant, which would give uneven shares."""
    value = (key ^ dbid * 0x9E3779B1) & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        value = (value ^ value >> shift) * factor & 0xFFFFFFFF
    return value
