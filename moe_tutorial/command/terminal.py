"""What is shown on a terminal: nothing that a terminal obeys, and reasons that say what to do."""

import errno
import unicodedata

COMMAND = "python -m moe_tutorial"
EXIT_FAILED, EXIT_WRONG_USE = 1, 2
ADVICE = {
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENOSPC: "make room there, or name another place",
    errno.EDQUOT: "make room there, or name another place",
    errno.EEXIST: "remove it, or name another place",
    errno.ENOTDIR: "remove the file in the way, or name another place",
    errno.EISDIR: "remove it, or name another place",
    errno.ELOOP: "remove the link, or name another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "name a place that exists",
    errno.EBUSY: "it is in use, or a disk of its own: name a folder inside it, or another place",
    errno.EXDEV: "name a place on the same disk",
}


def visible(text: str) -> str:
    """The text with what a terminal would obey written out; line breaks and tabs stay.

    A stranger's vocabulary, text or file name may hold control characters, or characters that
    change the order in which others are shown.
    """
    return "".join(repr(char)[1:-1] if _is_obeyed(char) else char for char in text)


def reason(error: Exception) -> str:
    """The error in one line; one of the operating system's with its file and what to do."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in ADVICE:
        where = "" if error.filename is None else f"{error.filename}: "
        text = f"{where}{error.strerror.lower()}; {ADVICE[error.errno]}"
    if "allocate memory" in text or "out of memory" in text:  # PyTorch's words tell of its files
        text = "not enough memory; lower training.batch_size or the sizes in the section model"
    return visible(" ".join(text.split())) or type(error).__name__


def _is_obeyed(char: str) -> bool:
    if char in "\n\r\t":
        return False
    reorders = unicodedata.bidirectional(char) in _REORDERING
    return reorders or unicodedata.category(char) == "Cc"


_REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
