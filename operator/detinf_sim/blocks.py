"""The KV cache: blocks of tokens, shared by their content where prefix caching is on, evicted least recently used.

As in vLLM (``v1/core/block_pool.py``): a block that nobody uses keeps its content until it is needed for another, and
the blocks of one request are given back last first, so that the beginnings of prompts stay longest.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence as SequenceOf


class BlockPool:
    """Blocks are numbers from 0."""

    def __init__(self, blocks: int, size: int, *, caching: bool) -> None:
        """Start empty.

        Args:
            blocks: how many there are.
            size: tokens in each.
            caching: whether contents are shared.
        """
        self.blocks = blocks
        self.size = size
        self.caching = caching
        self._untouched = 0
        self._free: dict[int, None] = {}
        self._users: dict[int, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def used(self) -> int:
        """Blocks that a request holds."""
        return len(self._users)

    def cached(self, keys: list[bytes]) -> list[int]:
        """Return the blocks of the longest prefix that is there."""
        found = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def take(self, count: int, shared: SequenceOf[int] = ()) -> list[int] | None:
        """Return ``shared`` and ``count`` blocks more, held once more each; None, and nothing done, without room."""
        unused = sum(block not in self._users for block in shared)
        if count + unused > len(self._free) + self.blocks - self._untouched:
            return None
        for block in shared:
            self._users[block] = self._users.get(block, 0) + 1
            self._free.pop(block, None)
        taken = list(shared)
        for _ in range(count):
            if self._untouched < self.blocks:
                block = self._untouched
                self._untouched += 1
            else:
                block = next(iter(self._free))
                del self._free[block]
                self._unname(block)
            self._users[block] = 1
            taken.append(block)
        return taken

    def release(self, blocks: list[int]) -> None:
        """Give blocks back."""
        for block in reversed(blocks):
            left = self._users[block] - 1
            if left:
                self._users[block] = left
            else:
                del self._users[block]
                self._free[block] = None

    def name(self, block: int, key: bytes) -> None:
        """Say what a full block holds; another block with the same content stays the one that is shared."""
        if self._block_of.setdefault(key, block) == block:
            self._key_of[block] = key

    def forget(self) -> None:
        """Forget all contents; requests go on with their blocks."""
        self._key_of.clear()
        self._block_of.clear()

    def _unname(self, block: int) -> None:
        if key := self._key_of.pop(block, None):
            del self._block_of[key]


def first_key(adapter: str, salt: str) -> bytes:
    """Return what the keys of a prompt begin with: nothing is shared across salts or adapters."""
    return hashlib.blake2b(f"{adapter}/{salt}".encode(), digest_size=16).digest()


def next_key(before: bytes, tokens: list[int]) -> bytes:
    """Return the key of a block after the one before it."""
    return hashlib.blake2b(before + array("I", tokens).tobytes(), digest_size=16).digest()
