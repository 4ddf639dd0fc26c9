"""An interpolated Kneser-Ney model of bytes, the yardstick of trainers/language_model.py: trained and judged on the same bytes as it.
`python benchmarks/kneser_ney.py [--order 5] [--data FILE_OR_FOLDER]` prints bits per byte on the held-out part.

Modified discounts (Chen and Goodman 1999, equation 26): one each for n-grams seen once, twice and more often, from the counts of
counts of each order. The highest order counts occurrences, the lower ones the distinct bytes that came before; below the first
order every byte is equally likely, so none has probability 0. Both texts are preceded by order - 1 zero bytes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """The n-grams of one length: sorted keys (n bytes, the last one lowest) with what their counts are after the discount; sorted contexts
    (n - 1 bytes) with the share of their probability that goes to the next shorter context."""

    grams: Keys
    discounted: Floats
    """Count less discount, over the context's total."""
    contexts: Keys
    backoff: Floats


def keys(text: bytes, length: int, order: int) -> Keys:
    """The `length` bytes up to and with each byte of `text`, as one number; what comes before the text is zero bytes."""
    padded = np.frombuffer(bytes(order - 1) + text, np.uint8).astype(np.uint64)
    found = np.zeros(len(text), np.uint64)
    for back in range(length - 1, -1, -1):
        end = len(padded) - back
        found = found << np.uint64(8) | padded[end - len(text) : end]
    return found


def discounts(counts: NDArray[np.int64]) -> Floats:
    """What is taken off a count of 0, 1, 2 and 3 or more; 0.75 off all where a small text has too few counts to tell."""
    ones, twos, threes, fours = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if not (ones and twos and threes):
        return np.array([0, 0.75, 0.75, 0.75])
    rate = ones / (ones + 2 * twos)
    found = [1 - 2 * rate * twos / ones, 2 - 3 * rate * threes / twos, 3 - 4 * rate * fours / threes]
    sound = all(0 < value < times for times, value in enumerate(found, start=1))
    return np.array([0, *found]) if sound else np.array([0, 0.75, 0.75, 0.75])


def level(grams: Keys, counts: NDArray[np.int64]) -> Level:
    off = discounts(counts)[np.minimum(counts, 3)]
    contexts, start = np.unique(grams >> np.uint64(8), return_index=True)
    total = np.add.reduceat(counts, start)
    each = np.repeat(total, np.diff(np.append(start, len(grams))))
    return Level(grams, (counts - off) / each, contexts, np.add.reduceat(off, start) / total)


def train(text: bytes, order: int = 5) -> list[Level]:
    """The model: a Level for each length from 1 to `order` (at most 8). Raises ValueError for an empty text."""
    if not text:
        raise ValueError("a model of no bytes cannot be trained")
    levels = []
    grams, counts = np.unique(keys(text, order, order), return_counts=True)
    for length in range(order, 0, -1):
        levels.append(level(grams, counts))
        # Each distinct n-gram is one distinct byte before its last n - 1 bytes.
        grams, counts = np.unique(grams & np.uint64((1 << 8 * (length - 1)) - 1), return_counts=True)
    return levels[::-1]


def looked_up(wanted: Keys, known: Keys, values: Floats, otherwise: float) -> Floats:
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, values[place], otherwise)


def probabilities(model: list[Level], text: bytes) -> Floats:
    """Of each byte of `text`, given the ones before it."""
    found = np.full(len(text), 1 / 256)
    for length, each in enumerate(model, start=1):
        grams = keys(text, length, len(model))
        backoff = looked_up(grams >> np.uint64(8), each.contexts, each.backoff, 1.0)
        found = looked_up(grams, each.grams, each.discounted, 0.0) + backoff * found
    return found


def bits_per_byte(model: list[Level], text: bytes) -> float:
    return float(-np.log2(probabilities(model, text)).mean())


def main() -> None:
    from sidebyside import program  # beside this file: for who imports it, it is not on the path

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--order", type=int, default=5, choices=range(1, 9), help="longest run of bytes that is counted")
    parser.add_argument("--data", default="", help="as the trainer's")
    given = parser.parse_args()
    text = program("language_model").corpus(given.data)
    training, held = text.training.numpy().tobytes(), text.held.numpy().tobytes()
    print(f"{len(training)} bytes to train on, {len(held)} held out, SHA-256 {text.digest}")
    print(f"order={given.order} bits-per-byte={bits_per_byte(train(training, given.order), held):.5f}")


if __name__ == "__main__":
    main()
