"""Spatial transformers on distorted MNIST: train them, and see what they attend to."""
