"""Experiments of chapter 12."""

EXPERIMENTS = []
