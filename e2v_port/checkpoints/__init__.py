"""Sources of weights: the manifest of known models, downloads from the hubs, local checkpoints."""
