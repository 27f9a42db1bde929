"""The numbers right at a threshold and right above it, as the trees compare them: doubles, or numbers of 32 bits.

Most of scikit-learn's trees round a ride's numbers to 32 bits, and compare them with thresholds that are doubles.
"""

import numpy as np

from served.arrays import Floats


def largest_up_to(limits: Floats, *, single: bool) -> Floats:
    """Return the largest number that is not above each limit; if ``single``, the largest one of 32 bits."""
    if not single:
        return limits
    # numpy rounds to the nearest number, which may be above the limit.
    rounded = limits.astype(np.float32)
    return np.where(rounded > limits, np.nextafter(rounded, np.float32(-np.inf)), rounded).astype(np.float64)


def smallest_above(limits: Floats, *, single: bool) -> Floats:
    """Return the smallest number above each limit; if ``single``, the smallest one of 32 bits."""
    if not single:
        return np.nextafter(limits, np.inf)
    rounded = limits.astype(np.float32)
    return np.where(rounded > limits, rounded, np.nextafter(rounded, np.float32(np.inf))).astype(np.float64)
