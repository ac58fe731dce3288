"""Optimisers of poses: they know an objective or normal equations, and nothing of X-rays."""
