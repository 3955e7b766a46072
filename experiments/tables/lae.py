"""LAE: what each trick adds, and the balanced classifier (Bao et al., CAIP 2021).

The paper's table has two more rows, of 1.89, 0.37, 7.74 and 1.86, 0.20, 7.94 (MAE, σ, AAR), whose names are not known
here; they are not put beside ours.
"""

from agejax.metrics import AGE_GROUPS
from experiments.tables.kinds import Row, Run, Table, Trained, numbers

MIVIA = "mivia"

TRICKS = Table(
    "tricks", "a baseline, each trick alone, all of them, and the second stage", (MIVIA,),
    ("mae", "sigma", "aar", *(f"mae {group}" for group in AGE_GROUPS)),
    (
        Row("baseline", Trained(Run("lae_baseline", weights="resnet18"))),
        Row("+ architecture", Trained(Run("lae_architecture", weights="efficientnet_v2_m")), numbers(MIVIA, mae=1.93)),
        Row("+ pre-training", Trained(Run("lae_pretraining", needs=("pretrain",))), numbers(MIVIA, mae=1.78)),
        Row("+ augmentation", Trained(Run("lae_augmentation", weights="resnet18")), numbers(MIVIA, mae=1.85)),
        Row("strong baseline", Trained(Run("lae_strong")), numbers(MIVIA, mae=1.71, sigma=1.11, aar=7.18)),
        Row("LAE", Trained(Run("lae"))),
    ),
    number="2", source="its second table, validation part",
)  # fmt: skip

TABLES = (TRICKS,)
