"""What Caffe's data layers read and draw, without torch: files, databases, transformation, reading ahead.

A source tells its tops' shapes, draws the next batch (which items, and every random word that their
transformation needs: cheap, in order, on the caller's thread) and loads a drawn batch (decoding: slow, on any
thread). So reading ahead cannot change a draw. `Prefetcher` runs a source.
"""
