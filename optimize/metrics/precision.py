"""The share of what was called a class that is one: of class 1 where there are two, else the mean over the classes.

scikit-learn's `precision_score`; a class that nothing was called counts as 0.
"""

from optimize.metrics import Metric
from optimize.metrics.accuracy import called, of_called

METRIC = Metric("precision", "share", True, called, of_called("precision_score"))
