"""Mathematics that knows no agent: distributions, returns, statistics, linear algebra on pytrees."""
