"""Flax modules that networks are made of: dense layers, memories, heads of action values."""
