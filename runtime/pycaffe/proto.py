"""`caffe.proto`: where scripts find the messages."""

from prototxt import caffe_pb2

__all__ = ["caffe_pb2"]
