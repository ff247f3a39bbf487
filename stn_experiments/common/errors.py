"""The four ways in which a command ends early, each with its own exit code (see the README)."""


class UserError(Exception):
    """A mistake in a setting or a file that the user can mend: one clear line, exit code 2."""

    exit_code = 2


class DataUnavailable(UserError):
    """MNIST could be had from none of its sources: one clear line, exit code 3."""

    exit_code = 3


class TrainingFailed(UserError):
    """Training could not go on, as with a loss that is not finite: one clear line, exit code 4."""

    exit_code = 4


class RunLocked(UserError):
    """Another process trains the run, or may well do so: one clear line, exit code 5."""

    exit_code = 5
