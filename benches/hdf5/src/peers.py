"""The work of the bench with h5py and with zarr; prints `NAME SECONDS` for each thing timed, and nothing for what cannot be done."""

import importlib.util
import os
import sys
import time

library, work, folder = sys.argv[1:4]
large, row, chunk, small, small_len, slices, slice_rows, appends, appended_to = map(int, sys.argv[4:])
if importlib.util.find_spec(library) is None:
    sys.exit(0)

import numpy as np


def noted(name, since):
    print(name, time.perf_counter() - since)


def doubles(count):
    return (np.arange(count) % 100003) * 0.001


def starts():
    return [(i * 7919) % (large // row - slice_rows) for i in range(slices)]


def force(path):
    """Puts a file, or all files of a folder and their names, on the disk."""
    for place, _, names in [(path, [], [])] if os.path.isfile(path) else os.walk(path):
        for name in [place] + [os.path.join(place, name) for name in names]:
            fd = os.open(name, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)


def by_h5py():
    import h5py

    path = os.path.join(folder, "h5py.h5")

    def synced(f):
        f.flush()
        force(path)

    options = {
        "plain": {},
        "gzip": dict(chunks=(chunk,), compression="gzip", compression_opts=4, shuffle=True),
        "lzf": dict(chunks=(chunk,), compression="lzf", shuffle=True),
    }
    if work == "zstd" and importlib.util.find_spec("hdf5plugin"):
        import hdf5plugin

        options["zstd"] = dict(chunks=(chunk,), shuffle=True, **hdf5plugin.Zstd(clevel=3))
    if work in options:
        data = doubles(large)
        with h5py.File(path, "w") as f:
            t = time.perf_counter()
            f.create_dataset("a", data=data, **options[work])
            synced(f)
            noted("write", t)
        with h5py.File(path, "r") as f:
            t = time.perf_counter()
            read = f["a"][()]
            noted("read", t)
        assert (read == data).all()
    elif work == "small":
        arrays = doubles(small * small_len).reshape(small, small_len)
        with h5py.File(path, "w", libver="latest") as f:
            t = time.perf_counter()
            for i in range(small):
                f.create_dataset(f"all/{i}", data=arrays[i])
            synced(f)
            noted("write", t)
        with h5py.File(path, "r") as f:
            t = time.perf_counter()
            for i in range(small):
                f[f"all/{i}"][()]
            noted("read", t)
    elif work == "slices":
        with h5py.File(path, "w") as f:
            f.create_dataset("a", data=doubles(large).reshape(-1, row))
        with h5py.File(path, "r") as f:
            t = time.perf_counter()
            d = f["a"]
            for start in starts():
                d[start : start + slice_rows]
            noted("read", t)
    elif work == "appends":
        with h5py.File(path, "w") as f:
            data = doubles(appended_to * row).reshape(-1, row)
            d = f.create_dataset("a", data=data, maxshape=(None, row), chunks=(chunk // row, row))
            synced(f)
            t = time.perf_counter()
            for i in range(appends):
                d.resize(appended_to + i + 1, axis=0)
                d[appended_to + i] = data[0]
                synced(f)
            noted("write", t)


def by_zarr():
    import warnings

    warnings.simplefilter("ignore")
    import zarr
    from zarr.codecs import GzipCodec, ZstdCodec
    from zarr.codecs.numcodecs import Shuffle

    path = os.path.join(folder, "zarr")

    def create(name, shape, chunks, filters=None):
        return zarr.create_array(
            store=path, name=name, shape=shape, chunks=chunks, dtype="f8", compressors=filters or None, overwrite=False
        )

    codecs = {
        # Files of 16 MiB: one for each megabyte would only be slower.
        "plain": ((16 * chunk,), None),
        "gzip": ((chunk,), [Shuffle(elementsize=8), GzipCodec(level=4)]),
        "zstd": ((chunk,), [Shuffle(elementsize=8), ZstdCodec(level=3)]),
    }
    if work in codecs:
        data = doubles(large)
        chunks, filters = codecs[work]
        t = time.perf_counter()
        create("a", data.shape, chunks, filters)[:] = data
        force(path)
        noted("write", t)
        t = time.perf_counter()
        read = zarr.open_array(store=path, path="a", mode="r")[:]
        noted("read", t)
        assert (read == data).all()
    elif work == "small":
        # All of them take minutes: a tenth of them, and ten times as long.
        count = small // 10
        arrays = doubles(count * small_len).reshape(count, small_len)
        t = time.perf_counter()
        for i in range(count):
            create(f"all/{i}", (small_len,), (small_len,))[:] = arrays[i]
        force(path)
        print("write", 10 * (time.perf_counter() - t))
        t = time.perf_counter()
        for i in range(count):
            zarr.open_array(store=path, path=f"all/{i}", mode="r")[:]
        print("read", 10 * (time.perf_counter() - t))
    elif work == "slices":
        create("a", (large // row, row), (chunk // row, row))[:] = doubles(large).reshape(-1, row)
        a = zarr.open_array(store=path, path="a", mode="r")
        t = time.perf_counter()
        for start in starts():
            a[start : start + slice_rows]
        noted("read", t)
    elif work == "appends":
        data = doubles(appended_to * row).reshape(-1, row)
        a = create("a", data.shape, (chunk // row, row))
        a[:] = data
        force(path)
        t = time.perf_counter()
        for i in range(appends):
            a.append(data[:1])
            # The description of the array and the one chunk that changed.
            force(os.path.join(path, "a", "zarr.json"))
            force(os.path.join(path, "a", "c", str((appended_to + i) // (chunk // row)), "0"))
        noted("write", t)


{"h5py": by_h5py, "zarr": by_zarr}[library]()
