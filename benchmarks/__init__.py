"""Speed of purerl, measured beside its peers in the same run."""
