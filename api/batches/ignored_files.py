"""Files of an archive that nobody wants to have classified: what systems put beside the pictures, and DICOM's index.

client/archive.py counts items by the same rule, for an upload that broke off goes on at one of them.
"""

from __future__ import annotations

import re

#: Folders of macOS, Windows, network storage and version control: what lies in them is theirs, or was thrown away.
FOLDERS = re.compile(
    r"__macosx|\.(spotlight-v100|fseventsd|temporaryitems|documentrevisions-v100|apdisk|appledouble|git|svn)"
    r"|\.trash(es|-\d+)?|@eadir|#recycle|\$recycle\.bin|recycler|system volume information",
    re.IGNORECASE,
)
#: Files of theirs; `._NAME` is what macOS knows about NAME. DICOMDIR is the index of a DICOM medium (PS3.10, 8).
FILES = re.compile(
    r"\._.*|\.(ds_store|localized|directory|hidden|nomedia)|(eh)?thumbs\.db|desktop\.ini|autorun\.inf|dicomdir",
    re.IGNORECASE,
)


def is_directory(name: str) -> bool:
    """Whether a member is a folder: no file, whatever becomes of those in it."""
    return name.endswith(("/", "\\"))


def is_ignored(name: str) -> bool:
    """Whether a member that is a file is left out, and named as such."""
    *folders, base = name.replace("\\", "/").split("/")
    return FILES.fullmatch(base) is not None or any(FOLDERS.fullmatch(folder) for folder in folders)
