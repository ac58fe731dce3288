"""Sequences in files: what is read is what was written, frame by frame; what is broken is said."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, XRayAngiographicImageStorage
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.tracking import open_sequence

FRAMES = np.random.default_rng(4).integers(0, 4000, (5, 24, 32)).astype(np.uint16)


def written(folder, kind: str):
    path = folder / f"run{kind}"
    if kind == "":
        path.mkdir()
        for number, frame in enumerate(FRAMES):
            # Sorted by number, not by name.
            sitk.WriteImage(sitk.GetImageFromArray(frame), str(path / f"shot_{9 + number}.png"))
    elif kind == ".dcm":
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = XRayAngiographicImageStorage
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID = XRayAngiographicImageStorage
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        dataset.Modality, dataset.NumberOfFrames, dataset.FrameTime = "XA", len(FRAMES), "40"
        dataset.Rows, dataset.Columns = FRAMES.shape[1:]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        dataset.PixelData = FRAMES.tobytes()
        dataset.save_as(path, enforce_file_format=True)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(FRAMES), str(path))
    return path


@pytest.mark.parametrize("kind", ["", ".dcm", ".tif", ".nrrd", ".mha", ".nii.gz"])
def test_every_frame_of_every_kind(tmp_path, kind):
    sequence = open_sequence(written(tmp_path, kind))
    assert sequence.count == len(FRAMES)
    for number in (1, 5, 3):
        assert np.array_equal(sequence.frame(number).pixels, FRAMES[number - 1])
    assert sequence.frames_per_second == (25.0 if kind == ".dcm" else None)
    with pytest.raises(InputError, match="no frame 6: it has 1 to 5"):
        sequence.frame(6)


def test_video_forwards_and_backwards(tmp_path):
    imageio = pytest.importorskip("imageio.v3")
    pytest.importorskip("av")
    path, count = tmp_path / "run.mp4", 90
    rows, columns = np.indices((64, 96))
    frames = [(60 + 1.5 * number + 0.5 * rows + 0 * columns).astype(np.uint8) for number in range(count)]
    with imageio.imopen(path, "w", plugin="pyav") as file:
        file.init_video_stream("libx264", fps=30)
        for frame in frames:
            file.write_frame(np.repeat(frame[..., None], 3, axis=-1))
    sequence = open_sequence(path)
    assert (sequence.count, sequence.frames_per_second) == (count, 30.0)
    for number in (1, 2, 50, 90, 89, 3, 60):
        shown = sequence.frame(number).pixels
        assert abs(float(shown.mean()) - float(frames[number - 1].mean())) < 1.0


def test_a_broken_video_is_told_once(tmp_path):
    pytest.importorskip("av")
    pytest.importorskip("imageio.v3")
    path = tmp_path / "run.mp4"
    path.write_bytes(b"not a video" * 100)
    with pytest.raises(InputError, match="cannot be read") as caught:
        open_sequence(path)
    assert str(caught.value).count("cannot be read") == 1


def test_a_missing_picture_is_named(tmp_path):
    path = written(tmp_path, "")
    (path / "shot_11.png").unlink()
    with pytest.raises(
        InputError, match=r"from shot_10\.png to shot_12\.png the numbers step by 2, else by 1"
    ):
        open_sequence(path)


def test_folders_that_are_no_sequence(tmp_path):
    with pytest.raises(InputError, match="holds no pictures"):
        open_sequence(tmp_path)
    path = written(tmp_path, "")
    (path / "again_9.png").write_bytes((path / "shot_9.png").read_bytes())
    with pytest.raises(InputError, match="have the same number"):
        open_sequence(path)
    (path / "again_9.png").rename(path / "cover.png")
    with pytest.raises(InputError, match=r"cover\.png has no number"):
        open_sequence(path)
    (path / "cover.png").rename(path / "shot_14.tif")
    with pytest.raises(InputError, match="several kinds"):
        open_sequence(path)


def test_a_video_keeps_the_bits_beyond_eight(tmp_path):
    av = pytest.importorskip("av")
    pytest.importorskip("imageio.v3")
    path = tmp_path / "run.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.height, stream.width = FRAMES.shape[1:]
        stream.pix_fmt = "gray16le"
        for frame in FRAMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray16le")))
        container.mux(stream.encode())
    sequence = open_sequence(path)
    assert sequence.count == len(FRAMES)
    np.testing.assert_array_equal(sequence.frame(2).pixels, FRAMES[1])


def test_hidden_files_are_no_pictures(tmp_path):
    folder = written(tmp_path, "")
    (folder / "._shot_9.png").write_bytes(b"\0\5\26\7")
    assert open_sequence(folder).count == len(FRAMES)
