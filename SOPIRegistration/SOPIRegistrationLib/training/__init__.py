"""Training of the networks: simulated patients, X-rays of them, losses and the loop."""
