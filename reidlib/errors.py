"""The one family of errors a user can cause; everything else is a defect of ours and shows its traceback."""


class ReidError(Exception):
    """Bad input. The message is whole: it names the file or parameter, what was expected, and the fix."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows: the message says it all, the stack would bury it."""
        return [f"{type(self).__name__}: {self}"]
