"""TFDS builders that prepare their data without TensorFlow, one file for each data set."""
