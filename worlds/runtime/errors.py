"""Errors of other libraries, told in one line."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def printable(text: str) -> str:
    """Return text without control characters, which a foreign file's names may hold."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)
