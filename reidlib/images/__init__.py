"""From image files to batches: decoding, sampling, augmentation and normalisation."""
