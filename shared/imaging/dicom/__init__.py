"""DICOM: read within bounds, displayed, and de-identified."""
