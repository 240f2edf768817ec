"""The base class of errors that a user can cause. Any other exception is a bug and shows its traceback."""


class ReidError(Exception):
    """Bad input. The message names the file or parameter, what was expected, and the fix."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows: only the message, because a stack trace would bury it."""
        return [f"{type(self).__name__}: {self}"]
