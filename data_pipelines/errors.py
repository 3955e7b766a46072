"""The exceptions that mean: the user can mend this. Entry points print their single line and exit with code 2."""


class UserError(ValueError):
    """One line: what was wrong, where, and what to do."""


class DataError(UserError):
    """A user's mistake about data."""
