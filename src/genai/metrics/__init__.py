"""Figures that do not average over batches, from all predictions at once. Imports no torch."""
