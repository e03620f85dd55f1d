"""Pieces of updates that algorithms share: optimisers, schedules, minibatches, regressions, checks."""
