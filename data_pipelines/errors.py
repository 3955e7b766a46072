"""The one exception that means: the user can mend this. Entry points print its single line and exit with code 2."""


class UserError(ValueError):
    """One line: what was wrong, where, and what to do."""
