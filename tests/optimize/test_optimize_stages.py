from types import SimpleNamespace

import numpy as np
import pytest
from test_optimize_report import row

from optimize import metrics, stages
from optimize.evaluate import Scores
from optimize.metrics import Rows


@pytest.mark.parametrize("each", [1, 3])
def test_what_was_given_up_is_judged_by_the_samples_that_it_answered(monkeypatch, each):
    right, half = np.ones((40 * each, 1)), np.tile([[1.0], [0.0]], (4 * each, 1))
    answered = {
        stages.ORIGINAL: Rows(right, np.full(40, each)),
        "bad": Rows(half, np.full(8, each)),
    }
    scores = Scores(answered, {}, {}, {}, {"bad": "too bad"})
    monkeypatch.setattr(stages, "evaluate", lambda *_, **__: scores)
    nothing = SimpleNamespace(contender=None, progress=None, log=None)
    subject = SimpleNamespace(
        choice=None, choice_samples=40, metric=metrics.get("accuracy"), contender=None, evaluate_batch=8,
        own_labels=True, fixed=False,
    )  # fmt: skip
    asked = SimpleNamespace(steps="auto", constraints=SimpleNamespace(max_drop=0.1))
    run = stages.Run(asked, subject, [], {"bad": nothing}, None, None)
    rows = {name: row(name, status="built, not measured") for name in (stages.ORIGINAL, "bad")}
    found, max_drop = stages.accuracy(run, rows, "validate_", None)
    assert max_drop == 0.1
    assert (found["bad"].status, found["bad"].reason) == ("dropped", "too bad")
    assert (found["bad"].validate_.samples, found["bad"].validate_.drop) == (8, 0.5)
