"""Learned fine registration: the pose at which the features of X-ray and DRR agree."""
