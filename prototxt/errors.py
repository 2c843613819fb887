"""The one kind of error that is the user's to mend."""


class InputError(ValueError):
    """A file, field, blob or option that cannot be used as it is.

    The message is one line that tells what, where and what to do. The commands print it and exit with
    status 2; anything else that reaches the user as a traceback is a bug of ours.
    """
