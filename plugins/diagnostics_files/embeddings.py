"""Text embeddings without a model: hashed counts of words and of neighbouring words."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

FEATURES = 512
_WORD = re.compile(r"\w+")


def hashed(texts: Sequence[str], features: int = FEATURES) -> np.ndarray:
    """Embeddings float32 [text, feature] of length 1; equal words in equal order give equal rows, on every machine.

    Feature hashing (Weinberger et al. 2009, 0902.2206): every word (lower case) and pair of neighbouring words is hashed to
    a feature and a sign, and adds 1 + log(count) there. Two texts are near where they share words; synonyms are strangers.
    A text without any word is a row of zeros.
    """
    rows = np.zeros((len(texts), features))
    for row, text in zip(rows, texts, strict=True):
        words = _WORD.findall(text.lower())
        counts = Counter(words) + Counter(f"{a} {b}" for a, b in pairwise(words))
        for term, count in counts.items():
            number = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "little")
            row[(number >> 1) % features] += (1 if number & 1 else -1) * (1 + np.log(count))
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0).astype(np.float32)
