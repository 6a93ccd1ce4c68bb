"""Loops compiled for the processor, and what they are made of."""
