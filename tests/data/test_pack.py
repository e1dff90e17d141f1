import hashlib
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import PipelineConfig, PreprocessSpec
from mlvlab_jax.data import pack as pack_module
from mlvlab_jax.data.decode import decode_image
from mlvlab_jax.data.open import open_data
from mlvlab_jax.data.pack import Progress, pack
from mlvlab_jax.data.pack_index import verify_pack
from mlvlab_jax.data.stream import train_stream
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.pack import main
from mlvlab_jax.plugins import SOURCES, Spec

SIZES = ((40, 30), (30, 40), (64, 64), (20, 100))


def spec_of(name, **params):
    return Spec(name, params_from(SOURCES.entry(name).params, params))


def pipeline_of(**values):
    return params_from(PipelineConfig, {"validation_fraction": 0.0} | values)


def photo(seed, size):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def photos(tmp_path):
    """24 images of four sizes in two classes, JPEG and PNG, and 4 to test on."""
    root = tmp_path / "photos"
    for k in range(24):
        ending = "png" if k % 5 == 0 else "jpg"
        save(root / "train" / ("cat", "dog")[k % 2] / f"{k:02d}.{ending}", photo(k, SIZES[k % 4]))
    for k in range(4):
        save(root / "test" / ("cat", "dog")[k % 2] / f"{k}.jpg", photo(100 + k, SIZES[k]))
    return root


def everything(data):
    """Images, labels and names of all splits."""
    return {
        name: (*split.source.fetch(split.ids)[:2], [split.source.name(int(k)) for k in split.ids])
        for name, split in data.splits.items()
    }


def assert_same_pixels(packed, source):
    assert packed.keys() == source.keys()
    for name in source:
        np.testing.assert_array_equal(packed[name][0], source[name][0])
        np.testing.assert_array_equal(packed[name][1], source[name][1])


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("encoding", ["keep", "raw"])
@pytest.mark.parametrize("max_memory_mib", [0, 64])
def test_a_packed_folder_gives_the_pixels_of_the_folder(photos, tmp_path, encoding, max_memory_mib):
    pipeline = pipeline_of(preprocess={"size": [16, 20]}, max_memory_mib=max_memory_mib)
    source = spec_of("image_folder", path=str(photos))
    index = pack(source, pipeline, folder=tmp_path / "out", encoding=encoding)
    assert {name: split.num_examples for name, split in index.splits.items()} == {"train": 24, "test": 4}
    data = open_data(spec_of("array_record", path=str(tmp_path / "out")), pipeline, seed=0)
    original = open_data(source, pipeline, seed=0)
    assert data.class_names == ("cat", "dog")
    assert data.preprocess == original.preprocess
    assert_same_pixels(everything(data), everything(original))
    assert everything(data)["train"][2][0].endswith("[train][0] (train/cat/00.png)")
    assert verify_pack(tmp_path / "out") == index


def test_keeping_keeps_the_bytes_and_knows_their_sizes(photos, tmp_path):
    pack(spec_of("image_folder", path=str(photos)), pipeline_of(), folder=tmp_path / "out")
    records = SOURCES.build(spec_of("array_record", path=str(tmp_path / "out"))).splits["train"]
    files = sorted(photos.glob("train/*/*"))
    assert [record.data for record in records.read(np.arange(24))] == [file.read_bytes() for file in files]
    table = np.load(tmp_path / "out" / "train-index.npz")
    assert table["num_bytes"].tolist() == [file.stat().st_size for file in files]
    sizes = [SIZES[int(file.stem) % 4] for file in files]
    assert list(zip(table["width"].tolist(), table["height"].tolist(), strict=True)) == sizes


def test_max_side_reduces_what_is_larger_upright_and_leaves_the_rest(tmp_path):
    root = tmp_path / "photos"
    turned = Image.Exif()
    turned[0x0112] = 6
    save(root / "a" / "large.jpg", photo(1, (200, 100)), quality=95, exif=turned)
    save(root / "a" / "large.png", photo(2, (100, 60)))
    save(root / "b" / "small.jpg", photo(3, (50, 20)))
    save(root / "b" / "thin.png", photo(4, (150, 1)))
    pack(spec_of("image_folder", path=str(root)), pipeline_of(), folder=tmp_path / "out", max_side=50)
    records = SOURCES.build(spec_of("array_record", path=str(tmp_path / "out"))).splits["train"]
    data = [record.data for record in records.read(np.arange(4))]
    images = [Image.open(io.BytesIO(record)) for record in data]
    assert [image.size for image in images] == [(25, 50), (50, 30), (50, 20), (50, 1)]
    assert [image.format for image in images] == ["JPEG", "PNG", "JPEG", "PNG"]
    assert data[2] == (root / "b" / "small.jpg").read_bytes()
    upright = photo(1, (200, 100)).rotate(-90, expand=True).resize((25, 50), Image.Resampling.BILINEAR)
    grey = [np.asarray(image.convert("L")).astype(int) for image in (images[0], upright)]
    assert np.abs(grey[0] - grey[1]).mean() < 2
    lossless = photo(2, (100, 60)).resize((50, 30), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(np.asarray(images[1]), np.asarray(lossless))
    table = np.load(tmp_path / "out" / "train-index.npz")
    assert (table["width"].tolist(), table["height"].tolist()) == ([25, 50, 50, 50], [50, 30, 20, 1])


def test_reducing_keeps_the_whole_image_whatever_the_preprocessing(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "photos" / name / "white.png", Image.new("RGB", (100, 50), "white"))
    pipeline = pipeline_of(preprocess={"resize": "pad"})
    pack(spec_of("image_folder", path=str(tmp_path / "photos")), pipeline, folder=tmp_path / "out", max_side=33)
    records = SOURCES.build(spec_of("array_record", path=str(tmp_path / "out"))).splits["train"]
    image = Image.open(io.BytesIO(records.read(np.array([0]))[0].data))
    assert (image.size, image.getextrema()) == ((33, 16), ((255, 255),) * 3)


@pytest.mark.parametrize("size", [None, [12, 10]])
def test_pixels_in_memory_are_packed_raw(tmp_path, size):
    params = {"num_train": 70, "num_test": 5, "height": 8, "width": 6, "channels": 3}
    pipeline = pipeline_of(preprocess={"size": size})
    source = spec_of("synthetic", **params)
    index = pack(source, pipeline, folder=tmp_path / "out")
    assert index.head.encoding == "raw"
    data = open_data(spec_of("array_record", path=str(tmp_path / "out")), pipeline, seed=0)
    assert_same_pixels(everything(data), everything(open_data(source, pipeline, seed=0)))


def test_the_same_source_gives_the_same_bytes_whatever_the_path(photos, tmp_path, monkeypatch):
    shutil.copytree(photos, tmp_path / "moved" / "photos")
    pack(spec_of("image_folder", path=str(photos)), pipeline_of(), folder=tmp_path / "one")
    monkeypatch.setattr(pack_module, "_MAX_THREADS", 1)
    pack(spec_of("image_folder", path=str(tmp_path / "moved" / "photos")), pipeline_of(), folder=tmp_path / "two")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of about 4 KiB, written in chunks of about one image."""
    monkeypatch.setattr(pack_module, "_SHARD_BYTES", 4096)
    monkeypatch.setattr(pack_module, "_CHUNK_BYTES", 1024)


class StopPackingError(Exception):
    pass


def test_an_interrupted_packing_goes_on_and_ends_with_the_same_bytes(photos, tmp_path, small_shards):
    source = spec_of("image_folder", path=str(photos))
    whole = pack(source, pipeline_of(), folder=tmp_path / "whole")
    assert len(whole.splits["train"].shards) > 3
    done = []

    def stop_late(count):
        done.append(count)
        if sum(done) > 18:
            raise StopPackingError

    folder = tmp_path / "out"
    with pytest.raises(StopPackingError):
        pack(source, pipeline_of(), folder=folder, progress=Progress(advance=stop_late))
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("train-*.arrayrecord")}
    assert 1 <= len(finished) < len(whole.splits["train"].shards)
    assert not (folder / "index.json").exists()
    damaged = min(finished)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    pack(source, pipeline_of(), folder=folder)
    assert digests(folder) == digests(tmp_path / "whole")
    kept = {path: time for path, time in finished.items() if path != damaged}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_folder_that_holds_something_else_is_left_alone(photos, tmp_path, small_shards):
    source = spec_of("image_folder", path=str(photos))
    folder = tmp_path / "out"
    with pytest.raises(StopPackingError):
        pack(
            source,
            pipeline_of(),
            folder=folder,
            progress=Progress(advance=lambda count: (_ for _ in ()).throw(StopPackingError)),
        )
    with pytest.raises(
        DataError, match="unfinished pack of other data or made otherwise; delete it, or choose another"
    ):
        pack(source, pipeline_of(), folder=folder, max_side=16)
    pack(source, pipeline_of(), folder=folder)
    before = digests(folder)
    assert pack(source, pipeline_of(), folder=folder).splits["train"].num_examples == 24
    with pytest.raises(DataError, match="holds a pack of other data or made otherwise; choose another --out"):
        pack(source, pipeline_of(), folder=folder, max_side=16)
    save(photos / "train" / "cat" / "new.jpg", photo(0, (9, 9)))
    with pytest.raises(DataError, match="holds a pack of other data"):
        pack(source, pipeline_of(), folder=folder)
    assert digests(folder) == before
    with pytest.raises(DataError, match="holds other files; choose a new folder"):
        pack(source, pipeline_of(), folder=photos)


def break_some(photos):
    cut = photos / "train" / "cat" / "02.jpg"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (photos / "train" / "dog" / "05.png").write_bytes(b"text")


@pytest.mark.parametrize("encoding", ["keep", "raw"])
def test_unreadable_images_are_left_out_and_listed(photos, tmp_path, encoding, small_shards):
    break_some(photos)
    pipeline = pipeline_of(preprocess={"size": [8, 8]}, max_bad_fraction=0.2)
    index = pack(spec_of("image_folder", path=str(photos)), pipeline, folder=tmp_path / "out", encoding=encoding)
    split = index.splits["train"]
    assert split.num_examples == 22
    assert [(bad.id, bad.name) for bad in split.bad] == [(1, "train/cat/02.jpg"), (14, "train/dog/05.png")]
    assert split.bad[0].reason.startswith("corrupt: ")
    assert split.bad[1].reason.startswith("format: ")
    data = open_data(spec_of("array_record", path=str(tmp_path / "out")), pipeline, seed=0)
    original = open_data(spec_of("image_folder", path=str(photos)), pipeline, seed=0)
    good = np.delete(np.arange(24), [1, 14])
    images, labels, bad = data.train.source.fetch(np.arange(22))
    assert not bad
    np.testing.assert_array_equal(images, original.train.source.fetch(good).image)
    np.testing.assert_array_equal(labels, original.train.source.fetch(good).label)


def test_too_many_unreadable_images_stop_the_packing(photos, tmp_path):
    break_some(photos)
    with pytest.raises(DataError, match=r"2 of 24 examples of split 'train' are unreadable(.|\n)*02\.jpg: corrupt"):
        pack(spec_of("image_folder", path=str(photos)), pipeline_of(), folder=tmp_path / "out")
    assert not (tmp_path / "out" / "index.json").exists()


def test_what_does_not_go_together_is_refused(photos, tmp_path):
    files, pixels = spec_of("image_folder", path=str(photos)), spec_of("digits")
    with pytest.raises(ConfigError, match="source 'digits' holds pixels, no image files; use --encode raw"):
        pack(pixels, pipeline_of(), folder=tmp_path / "out", encoding="keep")
    with pytest.raises(ConfigError, match="--max-side is for image files"):
        pack(pixels, pipeline_of(), folder=tmp_path / "out", max_side=4)
    with pytest.raises(ConfigError, match="expected the size to bring them to"):
        pack(files, pipeline_of(), folder=tmp_path / "out", encoding="raw")
    assert not (tmp_path / "out").exists()


def test_the_command_packs_and_training_reads_it(photos, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(f"model: {{name: cnn}}\ndata: {{name: image_folder, params: {{path: {photos}}}}}\n")
    out = str(tmp_path / "out")
    assert main(["--config", str(config), "--out", out, "--max-side", "32"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("test: 4 examples, ")
    assert (shown.out.splitlines()[-1], shown.err) == (
        f"to train on it: data.name=array_record data.params.path={out}",
        "",
    )
    assert main(["--out", out, "--verify"]) == 0
    shard = tmp_path / "out" / "train-00000-of-00001.arrayrecord"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    capsys.readouterr()
    assert main(["--out", out, "--verify"]) == 65
    assert f"{shard}: SHA-256" in capsys.readouterr().err
    assert main(["--config", str(config), "--out", out]) == 65
    with pytest.raises(SystemExit):
        main(["--config", str(config), "--out", out, "--max-side", "0"])
    with pytest.raises(SystemExit):
        main(["--config", str(config)])
    assert main(["--print-config", "--config", str(config)]) == 0


def test_training_batches_from_a_pack_are_those_of_the_files(photos, tmp_path):
    pipeline = pipeline_of(preprocess={"size": [24, 24]}, max_memory_mib=0)
    source = spec_of("image_folder", path=str(photos))
    pack(source, pipeline, folder=tmp_path / "out")
    streams = [
        train_stream(open_data(spec, pipeline, seed=0).train, batch_size=7, num_steps=8, seed=3)
        for spec in (source, spec_of("array_record", path=str(tmp_path / "out")))
    ]
    for ours, theirs in zip(*streams, strict=True):
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key])


def test_reduced_images_decode_as_the_reader_expects(tmp_path):
    save(tmp_path / "photos" / "a" / "grey.jpg", photo(5, (90, 60)).convert("L"))
    save(tmp_path / "photos" / "b" / "b.webp", photo(6, (90, 60)), lossless=True)
    pipeline = pipeline_of(preprocess={"channels": 1})
    pack(spec_of("image_folder", path=str(tmp_path / "photos")), pipeline, folder=tmp_path / "out", max_side=30)
    records = SOURCES.build(spec_of("array_record", path=str(tmp_path / "out"))).splits["train"]
    grey, lossless = (record.data for record in records.read(np.arange(2)))
    assert Image.open(io.BytesIO(grey)).mode == Image.open(io.BytesIO(lossless)).mode == "L"
    assert Image.open(io.BytesIO(lossless)).format == "PNG"
    assert decode_image(grey, PreprocessSpec(channels=1)).shape == (20, 30, 1)


def test_the_index_names_where_it_came_from(tmp_path):
    pack(spec_of("digits"), pipeline_of(), folder=tmp_path / "out")
    head = json.loads((tmp_path / "out" / "index.json").read_text())["head"]
    assert (head["source"], head["identity"]["origin"], head["image"]) == ("digits", "digits", [8, 8, 1])
