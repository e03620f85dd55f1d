"""Training of algorithms: the loop, populations, processes, checkpoints."""
