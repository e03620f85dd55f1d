"""System identification: physics parameters of an environment from recorded trajectories, by multiple shooting.

One long simulation from a guessed start is a treacherous way to compare a model with data: errors grow along it, and
the misfit has many local minima. Multiple shooting (Bock and Plitt 1984, "A multiple shooting algorithm for direct
solution of optimal control problems"; for parameters Bock 1987, "Randwertproblemmethoden zur Parameteridentifizierung")
cuts each trajectory into short segments that all begin near the data. The states at which they begin are unknowns too,
and that each segment ends where the next begins is a constraint, which need not hold before the end of the search::

    min  sum_t |(h(x_t; theta) - y_t) / noise|^2     subject to     F(x_s; theta) = x_{s+1}
    theta, x_0 .. x_{S-1}

with ``F`` the simulation of one segment and ``y`` the observations. Each step linearises both (forward mode, so that
simulators with a `while_loop` will do) and solves the linear problem, whose work grows with the number of segments and
no faster: a constrained Gauss-Newton method. Simulations run on the accelerator in float32, all segments at once; the
linear algebra is float64 on the host.
"""

from purerl.identification.fit import fit_params
from purerl.identification.recording import Recording, random_actions, record, simulate
from purerl.identification.report import Fit

__all__ = ["Fit", "Recording", "fit_params", "random_actions", "record", "simulate"]
