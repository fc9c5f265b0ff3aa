"""The share of a class that was called one: of class 1 where there are two, else the mean over the classes.

scikit-learn's `recall_score`, over the classes that are there or were called.
"""

from optimize.metrics import Metric
from optimize.metrics.accuracy import called, of_called

METRIC = Metric("recall", "share", True, called, of_called("recall_score"))
