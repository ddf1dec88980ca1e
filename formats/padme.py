"""Padmé: sizes rounded up so that they tell little (at most 12 % more, less with size).

Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs",
PETS 2019, section 4. A Padmé value has a mantissa no longer than its exponent's own length.
"""


def padme(length: int) -> int:
    """The smallest Padmé value that is at least `length` bytes."""
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    zeros = exponent - exponent.bit_length()
    mask = (1 << zeros) - 1
    return (length + mask) & ~mask


def padme_below(length: int) -> int:
    """The largest Padmé value that is at most `length` bytes."""
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    zeros = exponent - exponent.bit_length()
    return length >> zeros << zeros
