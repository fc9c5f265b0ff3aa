"""The zoo's splits, as its README has them."""

import numpy as np
from scripts import imagenet, script


def cifar10():
    """16,000 and 4,000 of the training pictures, and all 10,000 test pictures."""
    module = script("resnet_cifar10")
    x, y = module.common.cifar10_test(20000, "train")
    x_test, y_test = module.common.cifar10_test()
    train, test = module.preprocess(x), module.preprocess(x_test)
    y, y_test = y.astype(np.int64), y_test.astype(np.int64)
    return {"calibrate": (train[:16000], y[:16000]), "validate": (train[16000:], y[16000:]), "test": (test, y_test)}


def crop_and_flip(feeds, random):
    """CIFAR's usual augmentation: shifted by up to four pixels, mirrored half the time."""
    images = feeds["image"]
    count, _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4)))
    down, right = random.integers(0, 9, (2, count))
    rows, columns = down[:, None] + np.arange(height), right[:, None] + np.arange(width)
    columns = np.where(random.random(count)[:, None] < 0.5, columns[:, ::-1], columns)
    picked = padded[np.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return {"image": np.ascontiguousarray(picked.transpose(0, 3, 1, 2))}


def mobilenet():
    return imagenet("mobilenet_v1_025_224")


def squeezenet():
    """In half precision, as the file wants it, one picture a call."""
    return imagenet("squeezenet_fp16_onnx", np.float16)


TOKENS = 64  # the longest sentence of STS-B has fewer


def stsb():
    """Pairs of sentences and how alike they are, 0 to 5: 300 and 1,200 of STS-B's dev, and its whole test."""
    module = script("minilm_l6_v2")
    tokens = module.WordPiece(max_len=TOKENS)

    def split(name):
        *sentences, y = module.stsb(name)
        ids = np.zeros((len(y), 2, TOKENS), np.int64)
        mask = np.zeros_like(ids)
        for place, texts in enumerate(sentences):
            for row, text in enumerate(texts):
                found = tokens(text)
                ids[row, place, : len(found)], mask[row, place, : len(found)] = found, 1
        return ids, mask, y.astype(np.float32)

    ids, mask, y = split("dev")
    rows = np.random.default_rng(0).permutation(len(y))
    parts = {"calibrate": rows[:300], "validate": rows[300:]}
    found = {name: {"ids": ids[part], "mask": mask[part], "y": y[part]} for name, part in parts.items()}
    return found | {"test": dict(zip(("ids", "mask", "y"), split("test"), strict=True))}


def set12(size=128):
    """Set12 cut into squares, with the noise of the zoo's script: noisy and clean; whole pictures to a split."""
    pictures = [(noisy[0], clean[0]) for clean, noisy in script("dncnn_25").data()]

    def squares(part):
        cut = [
            [one[:, top : top + size, left : left + size] for one in pair]
            for pair in part
            for top in range(0, pair[0].shape[1] - size + 1, size)
            for left in range(0, pair[0].shape[2] - size + 1, size)
        ]
        noisy, clean = (np.stack(column).astype(np.float32) for column in zip(*cut, strict=True))
        return noisy, clean

    order = np.random.default_rng(0).permutation(len(pictures))
    parts = {"calibrate": order[:4], "validate": order[4:7], "test": order[7:]}
    return {name: squares([pictures[i] for i in rows]) for name, rows in parts.items()}


def coco_masks(size=384):
    """Pictures of COCO with the classes of VOC at each place: 30 and 20 of the training pictures, all 50 of val."""
    from PIL import Image

    module = script("espnetv2_pascal")

    def split(name):
        found = module.common.coco_voc_masks(name)
        maps = [Image.fromarray(mask).resize((size, size), Image.NEAREST) for _, mask in found]
        pictures = np.stack([module.preprocess(path, size) for path, _ in found])
        return pictures, np.stack([np.asarray(one) for one in maps]).astype(np.int64)

    x, y = split("train")
    return {"calibrate": (x[:30], y[:30]), "validate": (x[30:], y[30:]), "test": split("val")}


def coco_boxes():
    """Pictures of COCO and their objects, in the pixels of the model: 30 and 20 of train, all 50 of val; no crowds."""
    module = script("fastestdet")

    def split(name):
        found, _ = module.common.coco_tiny(name)
        x, y = [], []
        for path, boxes, classes, crowd in found:
            picture, size = module.preprocess(path)
            scale = module.SIZE / np.array([*size, *size])
            x.append(picture)
            y.append(np.concatenate([boxes * scale, classes[:, None]], 1)[~crowd])
        rows = np.full((len(y), max(map(len, y)), 5), -1, np.float32)
        for row, objects in zip(rows, y, strict=True):
            row[: len(objects)] = objects
        return np.stack(x), rows

    x, y = split("train")
    return {"calibrate": (x[:30], y[:30]), "validate": (x[30:], y[30:]), "test": split("val")}


def keywords():
    """Spoken words as features: 200, 200 and 600 clips in the order of the file."""
    x, y = script("mlperftiny_kws_dscnn").data()
    parts = {"calibrate": slice(200), "validate": slice(200, 400), "test": slice(400, None)}
    return {name: (x[part].astype("float32"), y[part].astype("int64")) for name, part in parts.items()}


FRAMES = 75  # a piece, 2.4 s


def vad():
    """The test recording of Silero's VAD in pieces of 75 frames (pieces, 75, 576), no labels: 10, 7 and 8 of them."""
    module = script("silero_vad")
    frames = module.frames(module.audio())
    pieces = frames[: len(frames) // FRAMES * FRAMES].reshape(-1, FRAMES, frames.shape[1])
    order = np.random.default_rng(0).permutation(len(pieces))
    parts = {"calibrate": order[:10], "validate": order[10:17], "test": order[17:]}
    return {name: {"input": pieces[rows]} for name, rows in parts.items()}


def vad_whole():
    """The recording as it is, (1, 1875, 576), for `optimize eval`."""
    module = script("silero_vad")
    whole = {"input": module.frames(module.audio())[None]}
    return dict.fromkeys(("calibrate", "validate", "test"), whole)
