"""Forms with files: the parser, and the disk where files wait until they are stored."""
