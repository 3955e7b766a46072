"""Words of foreign files in messages: one printable line each, whatever the file holds."""

from collections.abc import Iterable

LONGEST = 120  # characters
MOST = 12  # words in a list


def shown(word: object) -> str:
    """Text that is safe to print: escapes instead of control and foreign characters, cut where it is long."""
    text = str(word)[: LONGEST + 1].encode("unicode_escape").decode("ascii")
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def listed(words: Iterable[object]) -> str:
    """The first words, and how many more there are."""
    words = list(words)
    more = f" and {len(words) - MOST} more" if len(words) > MOST else ""
    return ", ".join(shown(word) for word in words[:MOST]) + more
