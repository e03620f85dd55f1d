"""Whether gradients through an environment can be trusted, and over how many steps.

Three things go wrong with them: where the dynamics jump they are biased, where they are stiff or chaotic they scatter,
and here and there they are not numbers at all. `diagnose` looks for all three at growing horizons; `compare_gradients`
does so for any function.
"""

from purerl.diagnostics.diagnosis import HORIZONS, MAX_ROUGHNESS, Diagnosis, check_actions, diagnose
from purerl.diagnostics.gradients import GradientComparison, compare_gradients
from purerl.diagnostics.trajectory import Trajectory, follow, jacobian_growth, perturbed_return

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
