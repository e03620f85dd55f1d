"""Uses of differentiable and simulated physics: planning, diagnosis of gradients, identification of parameters."""
