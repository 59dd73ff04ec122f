"""The command line: train in a folder, generate, export, import. Nothing of the course needs it."""
