"""What of a DICOM file identifies a patient, and how it is removed on the way into the store."""
