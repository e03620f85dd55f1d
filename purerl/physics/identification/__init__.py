"""System identification: physics parameters of an environment from recorded trajectories, by multiple shooting.

A comparison of model and data by one long simulation is not robust: errors grow along it, and the misfit has many local
minima. Multiple shooting (Bock and Plitt 1984, "A multiple shooting algorithm for direct solution of optimal control
problems"; for parameters Bock 1987, "Randwertproblemmethoden zur Parameteridentifizierung") cuts each trajectory into
short segments that all start near the data. Their start states are unknowns too. A constraint says that each segment
ends where the next one starts; it needs to hold only at the end of the search::

    min  sum_t |(h(x_t; theta) - y_t) / noise|^2     subject to     F(x_s; theta) = x_{s+1}
    theta, x_0 .. x_{S-1}

with ``F`` the simulation of one segment and ``y`` the observations. This is solved by a constrained Gauss-Newton
method: each step linearises objective and constraint (in forward mode, which supports simulators with a `while_loop`)
and solves the linear problem in a time proportional to the number of segments. Simulations run on the accelerator in
float32, all segments at once; the linear algebra is float64 on the host.
"""

from purerl.physics.identification.fit import fit_params
from purerl.physics.identification.recording import Recording, random_actions, record, simulate
from purerl.physics.identification.report import Fit

__all__ = ["Fit", "Recording", "fit_params", "random_actions", "record", "simulate"]
