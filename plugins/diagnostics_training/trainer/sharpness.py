"""When a head's attention has become so sharp that it should be told: read from what was logged."""

import math
from collections.abc import Mapping

LEAST_ENTROPY = 0.1
"""Of ln(keys), the entropy of a head that looks everywhere alike."""
MOST_LOGIT = 50.0


def sharp_heads(line: Mapping[str, float]) -> dict[str, str]:
    """Of a line of the metrics: the key of each scalar beyond its bound, and what it says in words."""
    sharp: dict[str, str] = {}
    for key, value in line.items():
        part, *rest = key.split("/")
        if part != "attention" or len(rest) != 3:
            continue
        block, kind, head = rest
        at = f"head {head} of block {block}"
        most = math.log(line[f"attention/{block}/keys"])
        if kind == "entropy" and value < LEAST_ENTROPY * most:
            sharp[key] = f"{at} has an entropy of {value:.2g}, of at most {most:.2g}"
        elif kind == "logit" and value > MOST_LOGIT:
            sharp[key] = f"{at} has a logit of {value:.3g}"
    return sharp
