"""What the shared networks refuse: image shapes, widths and class counts that make no network."""

from __future__ import annotations

from collections.abc import Sequence

Shape = tuple[int, int, int]


def check_shape(shape: Sequence[int], num_classes: int, *, smallest: int = 1) -> None:
    """Refuse an image shape that is not (channels, height, width), or too small, and a class count below 1.

    Example:
        >>> check_shape((28, 28), 10)
        Traceback (most recent call last):
        ValueError: shape must be (channels, height, width), each at least 1: got (28, 28)
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be (channels, height, width), each at least 1: got {tuple(shape)}")
    if min(shape[1:]) < smallest:
        raise ValueError(f"shape must be at least {smallest} high and wide: got {tuple(shape)}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1: got {num_classes}")


def check_widths(widths: Sequence[int], *, count: int | None = None) -> None:
    """Refuse widths below 1, and any other number of them than `count`.

    Example:
        >>> check_widths((16, 0))
        Traceback (most recent call last):
        ValueError: widths must each be at least 1: got (16, 0)
    """
    if count is not None and len(widths) != count:
        raise ValueError(f"widths must be {count} numbers: got {tuple(widths)}")
    if any(width < 1 for width in widths):
        raise ValueError(f"widths must each be at least 1: got {tuple(widths)}")
