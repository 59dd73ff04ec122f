"""Experiments of chapter 11."""

EXPERIMENTS = []
