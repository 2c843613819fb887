"""Record what a Caffe computes, through pycaffe's interface: see CONTRIBUTING.md.

Needs NumPy and the module that is recorded, nothing else, so that it runs where genuine Caffe runs.
"""
