"""Entry points of the zoo's torch models, with their original weights."""

from zoo import script


def resnet20():
    return script("resnet_cifar10").load(20)


def resnet56():
    return script("resnet_cifar10").load(56)


def mobilenet_v1_025():
    return script("mobilenet_v1_025_224").load()
