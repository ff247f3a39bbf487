"""The errors that end a command with one line, each with its own exit code (see docs/faults.md)."""


class UserError(ValueError):
    """A setting, an argument or a file is wrong, and the user can fix it."""

    exit_code = 2


class DataUnavailable(UserError):
    """No source of MNIST could be read."""

    exit_code = 3


class TrainingFailed(UserError):
    """Training cannot continue, for example because the loss is not finite."""

    exit_code = 4


class NotFinite(TrainingFailed):
    """The loss or a gradient of a step, counted from 1, is not finite."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(
            f"training stopped: the {what} of step {step} is not finite. A lower optimizer.lr or "
            "trainer.localisation_lr, or trainer.localisation_clip=1, usually helps"
        )
        self.step = step


class RunLocked(UserError):
    """Another process trains the run, or may be training it."""

    exit_code = 5
