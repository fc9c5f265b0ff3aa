"""The average precision of boxes at an overlap of 0.50 alone, as PASCAL VOC counts; else as `average_precision`."""

from dataclasses import replace
from functools import partial

from optimize.metrics.average_precision import METRIC as OVER_ALL
from optimize.metrics.average_precision import drawn, finish

METRIC = replace(
    OVER_ALL, name="average_precision_50", finish=partial(finish, overlaps=1), drawn=partial(drawn, overlaps=1)
)
