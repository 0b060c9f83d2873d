"""What a bundle answers to labelled images, measured, drawn and compared between engines."""
