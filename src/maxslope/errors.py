"""What goes wrong, by name. Every message says what was wrong, where, and what to do, repeating what was given."""


class MaxslopeError(Exception):
    """Base of every error this library raises on purpose; the command line ends with exit code 2 on it."""


class InputError(MaxslopeError, ValueError):
    """An argument, a data set or a file is not usable as given."""


class ShapeError(InputError):
    """Two shapes do not fit together."""


class DomainError(InputError):
    """A budget, a bound or a point is outside what a domain allows."""


class UnsupportedError(MaxslopeError, NotImplementedError):
    """A combination that has no exact method here; the message names the alternatives."""


class NoGradientError(UnsupportedError):
    """No gradient of the energy reaches the input; an adversary without gradients is needed."""


class NonFiniteError(MaxslopeError, ArithmeticError):
    """NaN or infinity where a finite number is needed."""


class MissingExtraError(MaxslopeError, ImportError):
    """An optional dependency is not installed; the message gives the pip command."""


class StoppedError(MaxslopeError, RuntimeError):
    """Work stopped early; what was finished is in `partial`, and the command line ends with exit code 3."""

    def __init__(self, message: str, partial: object = None):
        super().__init__(message)
        self.partial = partial
