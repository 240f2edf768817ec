"""Spatial attention in image classification, for `23_classification`.

`labelled_images` reads scikit-learn's digits or CIFAR-100, and `pooling_runs` trains one network on them with
each way of pooling.
"""
