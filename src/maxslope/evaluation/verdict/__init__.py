"""The verdict on an evaluation: flags with their evidence, from cheap probes and from the records."""

from .examination import Examination, examine, verdict

__all__ = ["Examination", "examine", "verdict"]
