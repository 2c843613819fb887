"""Opening a video: an ordinary file only, where OpenCV would also open devices, pipes and addresses of the network."""

import cv2

from prototxt.errors import InputError
from prototxt.files import open_ordinary
from prototxt.native_output import without_native_output
from runtime.data.decoding import check_count


def open_video(path: str) -> cv2.VideoCapture:
    """The video, before its first frame.

    Raises:
        InputError: what is no ordinary file, no video, or has frames of too many pixels.
    """
    try:
        open_ordinary(path).close()
    except OSError as error:
        raise InputError(f"{path}: no video that can be opened ({error.strerror}): check the path") from error
    with without_native_output():
        video = cv2.VideoCapture(path)
    if not video.isOpened():
        raise InputError(f"{path}: no video that can be opened: is it whole, and one that OpenCV reads?")
    width, height = video.get(cv2.CAP_PROP_FRAME_WIDTH), video.get(cv2.CAP_PROP_FRAME_HEIGHT)
    try:
        check_count(int(width * height))
    except InputError as error:
        raise InputError(f"{path}: a frame {error}") from error
    return video


def frame_count(path: str) -> int:
    """Frames of a video, as it says; 0 where it cannot be opened."""
    try:
        return max(int(open_video(path).get(cv2.CAP_PROP_FRAME_COUNT)), 0)
    except InputError:
        return 0
