"""The records of images, which a builder writes and launchers only read.

Source: Nodepool 11, its record classes.
"""

from __future__ import annotations

from typing import Annotated, Self

from nodelaunch.protocol.recordcoding import REQUIRED, Number, Record, Text
from nodelaunch.protocol.states import ImageState


class ImageBuild(Record, frozen=True):
    """A build of a diskimage, written by a builder; launchers only read it."""

    path: str
    image: str
    build_id: str
    state: Annotated[ImageState, ImageState] = ImageState.BUILDING
    state_time: Number = 0.0
    builder: Text = None
    """Host name of the builder."""
    formats: Text = None
    """Names of the formats, separated by commas."""

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, parts: tuple[str, str], modified_at: float = 0.0) -> Self:
        """*parts*: image and build id, as `paths.build_at` finds them in *path*. Raises: RecordInvalidError."""
        image, build_id = parts
        return cls._read(path, data, path=path, image=image, build_id=build_id, state=REQUIRED, state_time=modified_at)


class ImageUpload(Record, frozen=True):
    """An upload of a built image to one provider, written by a builder; launchers only read it."""

    path: str
    image: str
    build_id: str
    provider: str
    upload_id: str
    state: Annotated[ImageState, ImageState] = ImageState.UPLOADING
    state_time: Number = 0.0
    external_id: Text = None
    external_name: Text = None
    format: Text = None
    username: Text = "zuul"
    python_path: Text = "/usr/bin/python2"
    shell_type: Text = None

    @classmethod
    def from_bytes(cls, path: str, data: bytes, *, parts: tuple[str, str, str, str], modified_at: float = 0.0) -> Self:
        """*parts*: image, build id, provider and upload id, as `paths.upload_at` finds them in *path*.

        Raises: RecordInvalidError.
        """
        image, build_id, provider, upload_id = parts
        return cls._read(
            path, data, path=path, image=image, build_id=build_id, provider=provider, upload_id=upload_id,
            state=REQUIRED, state_time=modified_at,
        )  # fmt: skip
