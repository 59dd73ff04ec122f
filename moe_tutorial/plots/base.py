"""What all figures share."""

# Okabe & Ito 2008: told apart by readers with any color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", ":", "-.")


def visible(char: str) -> str:
    """One drawable symbol for a character: a bracket below for a blank, an arrow for a newline."""
    return {" ": "\u2423", "\n": "\u21b5"}.get(char, char)
