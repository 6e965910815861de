"""TFDS builders that prepare their data without TensorFlow, one file a data set."""
