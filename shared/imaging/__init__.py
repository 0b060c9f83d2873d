"""Bytes to pixels to tensor. Training and serving both go through here, so they see the same picture."""
