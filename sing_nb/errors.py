"""The one error type of this package."""


class SingError(ValueError):
    """Bad input or a missing part: says what was expected, what came, and what to do."""

    def _render_traceback_(self) -> list[str]:
        # IPython's own hook: the message says what to do, forty lines of our code do not.
        return [f"{type(self).__name__}: {self}"]
