"""What a user of any of the three packages can get wrong, one class a subject.

Each message says what is wrong, where, and what to do about it. The command line prints it as one
line and exits non-zero; the service turns it into an RFC 9457 problem with `code`.
"""


class FashionBertError(Exception):
    """Base of every error that a user's input, file or setting can cause."""

    code = "error"
    #: What is to blame of a request to the service, such as `k` or `pairs.3.image`.
    field: str | None = None

    def __init__(self, message: str, *, code: str | None = None, public: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        #: What a caller over HTTP is told, where the message names places on this machine.
        self.public = public or message


class CatalogueError(FashionBertError):
    """A product feed, or the pictures beside it, cannot be used."""

    code = "catalogue"


class TemporaryFileError(FashionBertError):
    """What is too much for memory cannot be put on a disk for the time being."""

    code = "temporary_file"


class ImageError(FashionBertError):
    """A picture was refused.

    `code` is one of `not_an_image`, `unsupported_format`, `truncated`, `too_many_bytes`,
    `too_many_pixels`.
    """

    code = "not_an_image"


class TextError(FashionBertError):
    """A text was refused; `code` is one of `empty_text`, `text_too_long`, `invalid_text`."""

    code = "empty_text"


class TrainingError(FashionBertError):
    """Training cannot start or go on; what was saved before is untouched."""

    code = "training"


class OutOfMemoryError(FashionBertError):
    """The model does not fit into the memory that is left, not with small passes either."""

    code = "out_of_memory"


class BundleError(FashionBertError):
    """An exported bundle is missing, damaged or of another format."""

    code = "bundle"


class SnapshotError(FashionBertError):
    """A snapshot is missing, damaged or made by another model."""

    code = "snapshot"


class WriteError(FashionBertError):
    """A write to the catalogue was not taken.

    `code` is one of `delta_full`, `write_busy`, `write_failed`.
    """

    code = "write_failed"
