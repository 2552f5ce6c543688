"""Cases of the catalogue that no test tries, with the reason."""

from __future__ import annotations

NOT_TRIED: dict[str, tuple[str, str]] = {
    "I021": (
        "The token in pg_stat_statements",
        "the token is a parameter, and that view shows none; where the extension is there, its views are closed",
    ),
    "I025": ("A role per tenant under one login", "there is no role per tenant to become"),
    "I036": (
        "A plan kept across a change of role",
        "the application's role is a member of nothing, so it never changes",
    ),
    "I037": ("A plan kept across a change of membership", "no policy names a role"),
    "I100": ("A dirty template database", "provisioning makes its own template, and closes the wall of each copy"),
    "I102": ("A row in both places after a move", "moves are tested where they are built"),
    "I106": ("Workers of Citus and of logical replication", "they run as the owner and are part of what is trusted"),
}

CATALOGUE = frozenset(
    f"I{number:03}"
    for number in (
        *(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 19, 20, 21),
        *(22, 23, 24, 25, 26, 28, 29, 31, 32, 33, 34, 35, 36, 37, 38),
        *(39, 41, 42, 43, 44, 45, 46),
        *(48, 49, 51, 52, 53, 54, 55, 56, 58, 59, 60, 61, 62),
        *(63, 64, 65, 67, 68, 69, 70, 71, 72, 73, 75, 76, 77, 78),
        *(79, 80, 81, 82, 84, 85, 87, 88, 89),
        *(90, 91, 92, 93, 95, 96, 97, 98, 100, 102, 103, 104, 105, 106),
    )
)
"""The cases that were there before the first line of code. What was thought of later begins at I201."""
