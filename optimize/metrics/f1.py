"""The harmonic mean of precision and recall: of class 1 where there are two classes, else the mean over the classes.

scikit-learn's `f1_score`.
"""

from optimize.metrics import Metric
from optimize.metrics.accuracy import called, of_called

METRIC = Metric("f1", "share", True, called, of_called("f1_score"))
