"""Metrics: one per file."""

from .perplexity import Perplexity

__all__ = ["Perplexity"]
