"""What the commands do, once their options are read; torch is imported here, not by `cli`."""

from .attacking import run_attack
from .comparing import run_compare
from .evaluating import run_evaluate, run_report, run_status, said
from .job import LOSSES, Job
from .presets import PRESETS, Preset
from .transporting import TransportJob, refuse_transport, run_transport
from .verifying import Question, run_verify

__all__ = [
    "LOSSES",
    "PRESETS",
    "Job",
    "Preset",
    "Question",
    "TransportJob",
    "refuse_transport",
    "run_attack",
    "run_compare",
    "run_evaluate",
    "run_report",
    "run_status",
    "run_transport",
    "run_verify",
    "said",
]
