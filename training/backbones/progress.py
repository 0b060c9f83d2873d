"""How far a long training has come: kept after each stretch, taken up by a later run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf


class Progress:
    """Model, optimiser and a count of what is done, saved and restored together."""

    def __init__(self, model: Any, optimizer: Any, folder: Path) -> None:
        """Restores what `folder` holds, if anything, into the model and the optimiser."""
        # Its slots are made at the first step otherwise, after the restoring.
        optimizer.build(model.trainable_variables)
        self._count = tf.Variable(0)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, step=self._count)
        self._manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=1)
        checkpoint.restore(self._manager.latest_checkpoint)

    @property
    def done(self) -> int:
        """Epochs or steps, as the training counts."""
        return int(self._count.numpy())

    def save(self, done: int) -> None:
        """Keep the state after so many."""
        self._count.assign(done)
        self._manager.save()
