"""The data folder: one Thoraq at a time, and the secrets that are made once and kept."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from shared.errors import ConfigError

ENVIRONMENT = "env"


class DataFolder:
    """The folder with everything that survives a restart.

    `secrets.json` (mode 0600) holds the passwords of the engines, the key that signs sessions, and the API key that
    was made at the first start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.logs = self.path / "logs"
        self._lock: TextIO | None = None

    def take(self) -> None:
        """Make the folder and lock it until release(); ConfigError when another Thoraq has it, or it is of no use."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._close_to_others()
            lock = (self.path / "lock").open("a+", encoding="ascii")
        except FileExistsError:
            raise ConfigError(f"{self.path} is a file: give a folder with --data") from None
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be used: {error.strerror}; give another folder with --data"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip()
            lock.close()
            raise ConfigError(
                f"another Thoraq (process {owner}) runs on {self.path}: stop it, or give another folder with --data"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def release(self) -> None:
        """Give the lock back; nothing happens when it is not held."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def secret(self, name: str) -> str:
        """Return a random secret of 64 hexadecimal digits, made at the first use of its name."""
        return self._kept().get(name) or self._keep(name, secrets.token_hex(32))

    def write_environment(self, environ: Mapping[str, str]) -> None:
        """Keep settings of the running system for operators' commands, as a file that a shell reads with `.`."""
        file = self.path / ENVIRONMENT
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(environ.items())]
        file.write_text("".join(lines), encoding="utf-8")

    def _close_to_others(self) -> None:
        """Only the owner may enter: as root the database runs as `nobody`, and others run as that, too.

        A folder of ours, or an empty one, is closed. ConfigError for one with other things in it: they may be meant
        for everybody.
        """
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if not mode & 0o077:
            return
        if any(self.path.iterdir()) and not (self.path / "secrets.json").exists():
            raise ConfigError(
                f"{self.path} holds other things, and others may enter it (mode {mode:04o}): chmod 700 it, or give "
                "another folder with --data"
            )
        self.path.chmod(0o700)

    @property
    def api_key(self) -> str | None:
        """The API key that was kept."""
        return self._kept().get("api_key")

    @api_key.setter
    def api_key(self, key: str) -> None:
        self._keep("api_key", key)

    def _kept(self) -> dict[str, str]:
        file = self.path / "secrets.json"
        try:
            kept: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        except ValueError as error:
            raise ConfigError(
                f"{file} is damaged, and holds the passwords of the database beside it: {error}"
            ) from None
        return kept

    def _keep(self, name: str, value: str) -> str:
        """Beside and renamed, so that a crash in between does not lose the secrets that are there."""
        fresh = self.path / "secrets.json.new"
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(self._kept() | {name: value}, indent=2), encoding="utf-8")
        fresh.replace(self.path / "secrets.json")
        return value
