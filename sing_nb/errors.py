"""The one error type of this package."""


class SingError(ValueError):
    """Bad input or a missing part: says what was expected, what came, and what to do."""
