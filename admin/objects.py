"""thoraq-admin objects: every object into a folder and back, whatever the store: what pg_dump leaves of a backup."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from admin.console import told_in_a_line
from console.command import Command
from shared.config import settings
from shared.storage import FolderStorage, Storage, open_storage

app = Command("objects", "Objects: the bytes of studies and models.")
Folder = Annotated[Path, typer.Argument(help="The copy: a folder, laid out like the store.")]


@app.command("export", short_help="Copy the store to a folder.")
def export(folder: Folder) -> None:
    """Copy what the folder lacks. Nothing is removed there: an older dump of the database may name it."""
    with told_in_a_line():
        copy = FolderStorage(folder)
        copy.prepare()
        typer.echo(f"{_copy(open_storage(settings()), copy)} copied")


@app.command("import", short_help="Copy a folder to the store.")
def import_(folder: Folder) -> None:
    """Copy what the store lacks of the folder; the folder or bucket of the store is made."""
    with told_in_a_line():
        storage = open_storage(settings())
        storage.prepare()
        typer.echo(f"{_copy(FolderStorage(folder), storage)} copied")


def _copy(source: Storage, target: Storage) -> int:
    """Objects never change: one that is there with its size is there."""
    copied = 0
    there = {info.key: info.size for info in target.list("")}
    for info in source.list(""):
        if there.get(info.key) != info.size:
            with source.open(info.key) as body:
                target.put(info.key, body)
            copied += 1
    return copied
