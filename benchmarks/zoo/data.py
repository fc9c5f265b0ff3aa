"""The zoo's splits, as its README has them."""

import numpy as np
from zoo import imagenet, script


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
