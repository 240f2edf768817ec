"""From image files to batches.

`decoding` reads every image once, into an array on disk; `contents` has the digests of the files; `samplers`
chooses a batch's images, `augmentation` changes them, and `normalisation` makes them the networks' input.
"""
