"""A distortion, a backbone and an attention outside stn_experiments."""
