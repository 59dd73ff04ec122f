"""Experiments of chapter 13."""

EXPERIMENTS = []
