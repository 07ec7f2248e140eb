"""Merkle trees: the vectors of the Certificate Transparency implementations, and the recursive definition, word for word."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive.proof.merkle import EMPTY_ROOT, HASH_LENGTH, Frontier, inclusion_proof, leaf_hash, root_from_proof, root_of

# The vectors of google/certificate-transparency (merkletree tests), which the implementations of RFC 6962 and RFC 9162 share.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# (leaf, counted from 1; size; proof) of the same tests.
PROOFS = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (3, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        2,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]

LEAVES = [leaf_hash(bytes.fromhex(each)) for each in INPUTS]


def naive(leaves: list[bytes]) -> bytes:
    """MTH, RFC 6962 section 2.1, as it is written there."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\x01" + naive(leaves[:k]) + naive(leaves[k:])).digest()


def naive_path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH, RFC 6962 section 2.1.1, as it is written there."""
    if len(leaves) <= 1:
        return []
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if m < k:
        return [*naive_path(m, leaves[:k]), naive(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive(leaves[:k])]


@pytest.mark.parametrize("size", range(len(ROOTS)))
def test_roots_are_those_of_the_published_vectors(size: int) -> None:
    assert root_of(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(("leaf", "size", "proof"), PROOFS)
def test_proofs_are_those_of_the_published_vectors(leaf: int, size: int, proof: list[str]) -> None:
    assert [each.hex() for each in inclusion_proof(LEAVES[:size], leaf - 1)] == proof
    root = root_from_proof(LEAVES[leaf - 1], leaf - 1, size, [bytes.fromhex(each) for each in proof])
    assert root is not None
    assert root.hex() == ROOTS[size]


def test_an_empty_tree_has_a_root() -> None:
    assert root_of([]) == EMPTY_ROOT == Frontier().root()
    assert len(EMPTY_ROOT) == HASH_LENGTH


@given(st.lists(st.binary(max_size=4), max_size=70))
def test_a_running_root_is_the_recursive_definition_at_every_size(lines: list[bytes]) -> None:
    frontier, leaves = Frontier(), []
    for line in lines:
        assert frontier.root() == naive(leaves)
        frontier.push(leaf_hash(line))
        leaves.append(leaf_hash(line))
        assert frontier.size == len(frontier) == len(leaves)
    assert frontier.root() == root_of(leaves) == naive(leaves)


@given(st.integers(1, 130), st.data())
def test_a_proof_proves_its_own_leaf_and_nothing_else(size: int, data: st.DataObject) -> None:
    leaves = [leaf_hash(b"%d" % each) for each in range(size)]
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(leaves, index)
    assert proof == naive_path(index, leaves)
    root = root_of(leaves)
    assert root_from_proof(leaves[index], index, size, proof) == root
    assert root_from_proof(leaf_hash(b"another"), index, size, proof) != root
    assert root_from_proof(leaves[index], index, size, [*proof, proof[0] if proof else EMPTY_ROOT]) is None
    if proof:
        assert root_from_proof(leaves[index], index, size, proof[:-1]) != root
        at = data.draw(st.integers(0, len(proof) - 1))
        changed = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        assert root_from_proof(leaves[index], index, size, [*proof[:at], changed, *proof[at + 1 :]]) != root
    if size > 1:
        other = (index + 1) % size
        assert root_from_proof(leaves[index], other, size, proof) != root


def test_a_proof_among_100000_is_544_bytes() -> None:
    leaves = [leaf_hash(b"%d" % each) for each in range(100_000)]
    proof = inclusion_proof(leaves, 54_321)
    assert sum(map(len, proof)) == 544
    assert root_from_proof(leaves[54_321], 54_321, len(leaves), proof) == root_of(leaves)


def test_there_is_no_proof_of_a_leaf_that_is_not_there() -> None:
    for index in (-1, 8):
        with pytest.raises(IndexError):
            inclusion_proof(LEAVES, index)
        assert root_from_proof(LEAVES[0], index, 8, inclusion_proof(LEAVES, 0)) is None
    assert root_from_proof(LEAVES[0], 0, 0, []) is None
