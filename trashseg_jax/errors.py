"""What the command line shows as one line: by class, the exit code."""


class InputError(ValueError):
    """A wrong option or bad data: the value, the rule and the remedy. Exit code 2."""


class RunError(RuntimeError):
    """What stopped a run whose input was right, and how to go on. Exit code 3."""


class Interrupted(Exception):
    """A signal ended the run; says what was saved. Exit code 75, EX_TEMPFAIL of sysexits.h."""
