"""Diagnosis of gradients through an environment: whether they can be trusted, and over how many steps.

Such gradients have three problems: they are biased where the dynamics jump, they have a large variance where the
dynamics are stiff or chaotic, and some are not finite. `diagnose` tests for all three at growing horizons;
`compare_gradients` does it for any function.
"""

from purerl.physics.diagnostics.diagnosis import HORIZONS, MAX_ROUGHNESS, Diagnosis, check_actions, diagnose
from purerl.physics.diagnostics.gradients import GradientComparison, compare_gradients
from purerl.physics.diagnostics.trajectory import Trajectory, follow, jacobian_growth, perturbed_return

__all__ = [
    "HORIZONS",
    "MAX_ROUGHNESS",
    "Diagnosis",
    "GradientComparison",
    "Trajectory",
    "check_actions",
    "compare_gradients",
    "diagnose",
    "follow",
    "jacobian_growth",
    "perturbed_return",
]
