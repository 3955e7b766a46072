"""Which split a key falls into: a seeded hash, so that an example keeps its split when the data set grows."""

import bisect
import hashlib
from collections.abc import Iterable, Mapping


def hash_split(keys: Iterable[str], shares: Mapping[str, float], seed: int = 0) -> dict[str, str]:
    """Key → split name. Each key's place in [0, 1) is its hash; the shares cut that line in their order.

    The sizes are thus near the shares, not equal to them. No split stays empty while there are as many keys as splits.
    """
    places = {key: _place(seed, key) for key in keys}
    ordered = sorted(places, key=places.get)
    line = [places[key] for key in ordered]
    names, total, start, result = list(shares), 0.0, 0, {}
    for i, name in enumerate(names):
        total += shares[name]
        later = len(names) - 1 - i
        end = len(line) if not later else bisect.bisect_left(line, total)
        end = max(min(end, len(line) - later), start + 1) if start < len(line) else start
        result |= dict.fromkeys(ordered[start:end], name)
        start = end
    return result


def _place(seed: int, key: str) -> float:
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
