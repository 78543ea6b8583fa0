"""Training: flags to a Lightning Trainer, its callbacks, and going on after a stop."""
