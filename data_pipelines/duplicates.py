"""Pictures that occur more than once: a fingerprint per picture, and the pairs of rows whose fingerprints agree."""

import cv2
import numpy as np

BITS = 256
SIDE, FREQUENCIES = 64, 24  # pixels of the small picture; slowest cosines along each side
FLAT = 2.0  # grey levels, std of the small picture: below it there is nothing to compare
FAINT = 0.01  # grey levels: a wave weaker than this is rounding
MAX_BITS = 31  # of 256: prints of one photograph differ in fewer, photographs of two people in 40 or more
LEAST_BITS = 8  # what another encoding changes
CAUTION = 2.0  # leaves photographs at MAX_BITS with room to spare, drawn mugshots without a pair of strangers
FEW, SAMPLE = 200, 200_000  # pictures, and pairs of them: whether the pictures of a set are alike anyway
MANY = 60_000  # rows; a search that is sure to find all pairs takes 3 s for so many, and ever longer for more
WORK = 1_000_000_000  # comparisons in a block of bits at most: in a full bucket, pairs far apart are left out
CHUNK = 32_768  # rows compared at a time, so that they stay in the processor's cache
CROWD = 100  # a picture that occurs oftener has no pair for every two of its rows
MOST_PAIRS = 2_000_000


def _cosines() -> np.ndarray:
    """float64 (FREQUENCIES, SIDE) of whole numbers: sums of products are exact, so hashes are equal on all machines."""
    frequency, pixel = np.arange(FREQUENCIES)[:, None], np.arange(SIDE)[None, :]
    return np.rint(1024 * np.cos(np.pi * frequency * (2 * pixel + 1) / (2 * SIDE)))


def _slowest() -> np.ndarray:
    """Flat indices of the BITS slowest waves, from slow to fast, without the mean."""
    down, across = np.mgrid[:FREQUENCIES, :FREQUENCIES]
    return np.argsort((down**2 + across**2).ravel(), kind="stable")[1 : BITS + 1]


COSINES, SLOWEST = _cosines(), _slowest()
THRESHOLD = FAINT * 1024**2 * (SIDE / 2) ** 2


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """uint64 (4,) of an RGB picture uint8 (H, W, 3): signs of its slowest cosine waves, on a 64 × 64 grey copy.

    Pictures that look alike differ in few bits, whatever their size, encoding and brightness. All zeros: the picture is
    of one colour. (The idea: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010.)
    """
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    if grey.std() < FLAT:
        return np.zeros(BITS // 64, np.uint64)
    waves = COSINES @ grey @ COSINES.T
    ones = waves.ravel()[SLOWEST] > THRESHOLD
    ones[-1] |= not ones.any()  # as of a picture that grows brighter evenly: 0 means one colour
    return np.packbits(ones).view("<u8").astype(np.uint64)


def equal_pairs(sha256: np.ndarray) -> np.ndarray:
    """int64 (P, 2): rows (earlier, later), in order, of equal values of (N,); of a crowd see `pairs_within`."""
    return pairs_within(np.unique(sha256, return_inverse=True)[1])


def bits_for(hashes: np.ndarray) -> int:
    """How many bits near-duplicates of a set may differ in: MAX_BITS, or fewer where all its pictures are alike.

    hashes: uint64 (N, n). Small drawn mugshots before one wall differ in few bits though they show strangers. So the
    limit lies below the median of random pairs by CAUTION times the way from there to their lowest hundredth.
    """
    if len(hashes) < FEW:
        return MAX_BITS
    left, right = np.random.default_rng(0).integers(0, len(hashes), (2, SAMPLE))
    bits = np.bitwise_count(hashes[left] ^ hashes[right]).sum(axis=1)
    low, middle = np.percentile(bits[bits > 0], [1, 50]) if bits.any() else (0, 0)
    return int(np.clip(middle - CAUTION * (middle - low), LEAST_BITS, MAX_BITS))


def near_pairs(hashes: np.ndarray, max_bits: int = MAX_BITS) -> np.ndarray:
    """int64 (P, 2): rows (earlier, later), in order, whose hashes uint64 (N, n) differ in at most `max_bits` bits.

    Pairs are looked for where a block of the bits is equal: 32 blocks find every pair of up to 31 bits, and 16 blocks,
    for N above MANY, every pair of up to 15 and most others. Hashes 0 (pictures of one colour) have no pairs. Of rows
    with one hash only the first has pairs with others. P ≤ MOST_PAIRS.
    """
    rows = np.flatnonzero(hashes.any(axis=1))
    rows = rows[np.lexsort(hashes[rows].T[::-1])]
    sorted_hashes = hashes[rows]
    first = np.ones(len(rows), bool)
    first[1:] = (sorted_hashes[1:] != sorted_hashes[:-1]).any(axis=1)
    distinct, representative = sorted_hashes[first], rows[first]
    copies = rows[pairs_within(np.cumsum(first) - 1)]
    alike = representative[_alike(distinct, max_bits)]
    return _in_order(np.concatenate([copies, alike]))[:MOST_PAIRS]


def pairs_within(group: np.ndarray) -> np.ndarray:
    """int64 (P, 2): places (earlier, later), in order, that have the same group: a number 0 … of each place, (N,).

    All pairs of a group; of one that has more than CROWD places only neighbours, and each with the first.
    """
    order, sizes = np.argsort(group, kind="stable"), np.bincount(group)
    size, start = sizes[group[order]], (np.cumsum(sizes) - sizes)[group[order]]
    nth, pairs = np.arange(len(order)) - start, [np.empty((0, 2), np.int64)]
    left = np.flatnonzero(size > 1)
    for step in range(1, CROWD):
        left = left[(nth[left] + step < size[left]) & ((size[left] <= CROWD) | (step == 1))]
        pairs.append(np.stack([order[left], order[left + step]], axis=1))
    crowd = np.flatnonzero((size > CROWD) & (nth > 1))
    return _in_order(np.concatenate([*pairs, np.stack([order[start[crowd]], order[crowd]], axis=1)]))


def groups(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that occur in pairs (P, 2), in order, and of each its group (M,) 0 …: rows that hang together."""
    rows, ends = np.unique(pairs, return_inverse=True)
    left, right = ends.reshape(-1, 2).T
    label, before = np.arange(len(rows)), None
    while before is None or (label != before).any():
        before, low = label.copy(), np.minimum(label[left], label[right])
        np.minimum.at(label, left, low)
        np.minimum.at(label, right, low)
        label = label[label]
    return rows, np.unique(label, return_inverse=True)[1]


def _alike(hashes: np.ndarray, max_bits: int) -> np.ndarray:
    """int64 (P, 2) places of distinct hashes (N, n), sorted, that differ in at most `max_bits` bits."""
    word = np.uint32 if len(hashes) <= MANY else np.uint16
    words = np.ascontiguousarray(hashes).view(word)
    found = np.empty(0, np.int64)  # a pair as one number: left · N + right
    for bit in range(word(0).itemsize * 8):
        key = _key(words, bit)
        order = np.argsort(key, kind="stable")
        left, right = _bucket_pairs(key[order], hashes[order], max_bits)
        left, right = np.sort([order[left], order[right]], axis=0)
        found = np.union1d(found, left * len(hashes) + right)
        if len(found) >= MOST_PAIRS:
            break
    return np.stack(np.divmod(found, max(len(hashes), 1)), axis=1)


def _key(words: np.ndarray, bit: int) -> np.ndarray:
    """uint16 (N,): one bit of each of (N, up to 16) words. So slow and fast waves are in every block."""
    key = np.zeros(len(words), np.uint16)
    for place in range(words.shape[1]):
        key |= ((words[:, place] >> bit) & 1).astype(np.uint16) << place
    return key


def _bucket_pairs(key: np.ndarray, hashes: np.ndarray, max_bits: int):
    """Places (left, right) of sorted keys (N,) that are equal and whose hashes (N, n) differ in few bits."""
    columns, reach = np.ascontiguousarray(hashes.T), 1 + WORK // max(len(key), 1)
    lefts, rights, found = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for start in range(0, len(key), CHUNK):
        left, step = np.arange(start, min(start + CHUNK, len(key))), 1
        while len(left) and step <= reach and found < MOST_PAIRS:
            left = left[: np.searchsorted(left, len(key) - step)]
            left = left[key[left] == key[left + step]]
            lefts.append(left[_differ(columns, left, left + step, max_bits)])
            rights.append(lefts[-1] + step)
            step, found = step + 1, found + len(lefts[-1])
    return np.concatenate(lefts), np.concatenate(rights)


def _differ(columns, left, right, max_bits: int) -> np.ndarray:
    """Where the hashes at (M,) places left and right of columns (n, N) differ in at most `max_bits` bits."""
    near, count = np.arange(len(left)), np.zeros(len(left), np.uint16)
    for i, column in enumerate(columns):
        count += np.bitwise_count(column[left[near]] ^ column[right[near]])
        if i % 2:  # after 128 bits hardly any is left
            near, count = near[count <= max_bits], count[count <= max_bits]
    return near[count <= max_bits]


def _in_order(pairs: np.ndarray) -> np.ndarray:
    pairs = np.sort(pairs, axis=1)
    return pairs[np.lexsort(pairs.T[::-1])]
