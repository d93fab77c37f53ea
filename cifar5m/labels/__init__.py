"""Label images: labelers, second labelings, calibration, fine-tuning."""
