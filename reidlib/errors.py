"""The base class of errors that a user can cause. Any other exception is a bug and shows its traceback."""


class ReidError(Exception):
    """Bad input. The message names the file or parameter, what was expected, and the fix.

    It is one line that can be printed anywhere, whatever the names in it hold.
    """

    def __init__(self, message: str = ""):
        super().__init__(shown(str(message)))

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows: only the message, because a stack trace would bury it."""
        return [f"{type(self).__name__}: {self}"]


def shown(text: str) -> str:
    """The text as it can be printed and saved: "\\xb2" for a byte that is no UTF-8, "\\n" for a line break.

    File names may hold any byte but two. Python keeps those that are no UTF-8 as surrogates (U+DC80 to
    U+DCFF), which no UTF-8 file can hold.
    """

    def as_seen(character: str) -> str:
        if character.isprintable():
            return character
        if "\udc80" <= character <= "\udcff":
            return f"\\x{ord(character) - 0xDC00:02x}"
        return character.encode("unicode_escape").decode("ascii")

    return text if text.isprintable() else "".join(map(as_seen, text))
