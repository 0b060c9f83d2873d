"""The one place that says which version of Thoraq this is; pyproject.toml reads it, and so does all that shows it."""

VERSION = "0.1.0"
