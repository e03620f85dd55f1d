"""Experience of agents: policies, environments in flight, running statistics, preprocessing of observations."""
