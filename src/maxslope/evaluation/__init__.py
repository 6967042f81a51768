"""Evaluation: one record per sample and adversary, every success judged again by a separate model call."""

from .evaluate import evaluate

__all__ = ["evaluate"]
