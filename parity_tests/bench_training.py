"""What a training iteration costs is a part of `seenet bench`: seenet bench --only training [--batch N]"""

from port.bench.timing import timed

__all__ = ["timed"]
