"""Objectives: the only place where years become targets and outputs become years again.

An objective is a frozen dataclass, its hyper-parameters its fields. The rest of the program needs of it:

    head_size                      width K of the last layer
    head                           the last layer, a module from features to outputs (B, K): see models/heads.py
    target                         the label it reads: "age", "attractiveness" or "identity"
    measures                       the validation measure, lower is better; None: there is none
    wants                          names of fields that, left at 0, are found out from the data or the stage before
    grid                           the labels it may be trained on (not with target "identity")
    loss(logits_BxK, batch)        (loss_B, metrics): unreduced float32 (B,), metrics a dict of float32 (B,)
    distribution(logits_BxK)       (B, grid.size) float32 probabilities over the grid; None where it has none
    predict(logits_BxK)            (value_B, spread_B): float32, in the label's unit; spread is a standard deviation

`batch` holds label, sigma, identity and mask as data_pipelines/schema.py describes. A padded row (mask 0)
has loss, metrics and gradient exactly 0, whatever stands in it. An example without the label that is asked
for (NaN, or identity -1) has loss NaN, so that it is noticed: keeping such examples out is the loader's part.

A new recipe is a new class here and a new row in OBJECTIVES.
"""

from agejax.objectives.distributions import (
    DEX,
    ExpectationRegression,
    JointLabelDistribution,
    LabelDistribution,
    MeanVariance,
    SoftLabels,
    UnimodalConcentrated,
)
from agejax.objectives.identity import AMSoftmax, Identity
from agejax.objectives.long_tail import LAEClassification, LAERepresentation
from agejax.objectives.ordinal import CORAL, ORCNN, Ranking
from agejax.objectives.regression import EuclideanRegression, MetricRegression

OBJECTIVES = {
    cls.__name__: cls
    for cls in (
        JointLabelDistribution,
        LabelDistribution,
        ExpectationRegression,
        DEX,
        MeanVariance,
        SoftLabels,
        UnimodalConcentrated,
        MetricRegression,
        EuclideanRegression,
        LAERepresentation,
        LAEClassification,
        Ranking,
        CORAL,
        ORCNN,
        Identity,
        AMSoftmax,
    )
}
