"""Which PostgreSQL servers are good enough. Pure.

The fixed minors close holes through which a tenant could read another's rows in spite of Row-Level Security, or run
code (https://www.postgresql.org/support/security/).
"""

from __future__ import annotations

OLDEST_MAJOR = 15

_FIXED_MINORS = {15: 20, 16: 16, 17: 12, 18: 7}


def shown_version(number: int) -> str:
    """``150018`` -> ``15.18``."""
    return f"{number // 10000}.{number % 10000}"


def is_supported(number: int) -> bool:
    """Whether the server is new enough to be used at all."""
    return number // 10000 >= OLDEST_MAJOR


def minor_warning(number: int) -> str | None:
    """A sentence on the known holes of this minor version, or None.

    Args:
        number: ``server_version_num``, for instance 150018.
    """
    major, minor = divmod(number, 10000)
    fixed = _FIXED_MINORS.get(major)
    if fixed is None or minor >= fixed:
        return None
    return (
        f"PostgreSQL {shown_version(number)} lacks fixes for Row-Level Security and code execution: "
        f"update to {major}.{fixed} or later"
    )
