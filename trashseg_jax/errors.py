"""The one exception that the command line shows as a line instead of a traceback."""


class InputError(ValueError):
    """What the user gave is wrong. The message is one line: file, value, rule, remedy."""
