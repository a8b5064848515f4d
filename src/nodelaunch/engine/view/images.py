"""The view of disk images: builds and uploads, written by builders."""

from __future__ import annotations

from nodelaunch.engine.view.events import ImagesChanged, Notifier, Versioned
from nodelaunch.errors import RecordInvalidError
from nodelaunch.protocol import paths
from nodelaunch.protocol.records import ImageBuild, ImageUpload
from nodelaunch.protocol.states import ImageState
from nodelaunch.protocol.store import Entry


class ImageView(Notifier):
    """The part of the view about images.

    Invariant: cached answers equal those of a look at all builds and uploads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.builds: dict[str, Versioned[ImageBuild]] = {}
        """Builds by path."""
        self.uploads: dict[str, Versioned[ImageUpload]] = {}
        """Uploads by path."""
        self._newest: dict[tuple[str, str], ImageUpload | None] = {}
        """Answers since the last change, by image and provider."""
        self._begun: dict[tuple[str, str], float | None] = {}
        self.image_names: set[str] = set()
        """Names of the images in the builders' tree."""
        self.paused_images: set[str] = set()
        """Images that are not built for now."""
        self.build_requests: dict[str, float] = {}
        """The time when a build was requested, in seconds since 1970, by image."""
        self._build_locks: dict[str, float] = {}
        self._build_contenders: dict[str, set[str]] = {}

    # -- reading ----------------------------------------------------------------------------------------------------

    def newest_upload(self, image: str, provider: str) -> ImageUpload | None:
        """Return the upload to boot: the ready one that became ready last."""
        key = (image, provider)
        if key not in self._newest:
            ready = [upload for upload in self._uploads_of(key) if upload.state is ImageState.READY]
            self._newest[key] = max(ready, key=lambda upload: upload.state_time, default=None)
        return self._newest[key]

    def image_begun_at(self, image: str, provider: str) -> float | None:
        """Return when a builder last started a build or upload that may become the first usable upload of *image*, by
        the wall clock, in seconds; None if no build or upload is under way."""
        key = (image, provider)
        if key not in self._begun:
            self._begun[key] = self._find_begun(key)
        return self._begun[key]

    def is_being_built(self, image: str) -> bool:
        """Return True if the requested build has started: its lock has a contender, and there is a younger build.
        Source: Nodepool 11."""
        if not self._build_contenders.get(image):
            return False
        begun = [seen.created_at for seen in self.builds.values() if seen.record.image == image]
        return bool(begun) and max(begun) >= self._build_locks.get(image, 0.0)

    def _uploads_of(self, key: tuple[str, str]) -> list[ImageUpload]:
        return [s.record for s in self.uploads.values() if (s.record.image, s.record.provider) == key]

    def _find_begun(self, key: tuple[str, str]) -> float | None:
        image, provider = key
        uploading = [each.state_time for each in self._uploads_of(key) if each.state is ImageState.UPLOADING]
        tried = {s.record.build_id for s in self.uploads.values() if s.record.provider == provider}
        building = [
            seen.record.state_time
            for seen in self.builds.values()
            if seen.record.image == image
            and seen.record.state in (ImageState.BUILDING, ImageState.READY)
            and seen.record.build_id not in tried
        ]
        return max(uploading + building, default=None)

    # -- input from the trees ---------------------------------------------------------------------------------------

    def image_entry_changed(self, entry: Entry) -> None:
        """Handle an entry below `paths.IMAGES` that is new or has changed."""
        if not wants_image(entry.path):
            self._note_flag(entry)
            return
        self._mark_readable(entry.path)
        try:
            self._keep(entry)
        except RecordInvalidError as error:
            self.builds.pop(entry.path, None)
            self.uploads.pop(entry.path, None)
            self._mark_unreadable(entry, error)
        self._images_changed()

    def _keep(self, entry: Entry) -> None:
        path, data, at = entry.path, entry.data, entry.stat.modified_at
        build, upload = paths.build_at(path), paths.upload_at(path)
        if build is not None:
            self.builds[path] = Versioned(ImageBuild.from_bytes(path, data, parts=build, modified_at=at), entry)
        elif upload is not None:
            self.uploads[path] = Versioned(ImageUpload.from_bytes(path, data, parts=upload, modified_at=at), entry)

    def image_entry_removed(self, path: str) -> None:
        """Handle the removal of an entry below `paths.IMAGES`."""
        self._mark_readable(path)
        self._forget_flag(path)
        if self.builds.pop(path, None) is not None or self.uploads.pop(path, None) is not None:
            self._images_changed()

    def _note_flag(self, entry: Entry) -> None:
        image, rest = paths.image_at(entry.path)
        at = entry.stat.created_at
        if not rest:
            self.image_names.add(image)
        elif rest == "pause":
            self.paused_images.add(image)
        elif rest == "request-build":
            self.build_requests[image] = at
        elif rest == "builds/lock":
            self._build_locks[image] = at
        elif rest.startswith("builds/lock/"):
            self._build_contenders.setdefault(image, set()).add(rest)

    def _forget_flag(self, path: str) -> None:
        image, rest = paths.image_at(path)
        if not rest:
            self.image_names.discard(image)
        elif rest == "pause":
            self.paused_images.discard(image)
        elif rest == "request-build":
            self.build_requests.pop(image, None)
        elif rest == "builds/lock":
            self._build_locks.pop(image, None)
        elif (contenders := self._build_contenders.get(image)) is not None:
            contenders.discard(rest)
            if not contenders:
                del self._build_contenders[image]

    def _images_changed(self) -> None:
        self._newest.clear()
        self._begun.clear()
        self._notify(ImagesChanged())


def wants_image(path: str) -> bool:
    """Return True if the data at *path* is a build or an upload."""
    return paths.build_at(path) is not None or paths.upload_at(path) is not None
