"""What makes poses of hypotheses: one refiner a file, and what they share."""
