"""Classification: jobs are claimed, loaded, shown to the engine, and their answers written."""
