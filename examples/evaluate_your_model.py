"""Evaluate a model under two attacks at two budgets, print the table, and keep the records.

Run: python examples/evaluate_your_model.py [FOLDER]

Put your own model and data in `main`: a network in eval mode that maps (rows, *event) to scores (rows, classes),
and a pair (x, y) or a loader that does not shuffle. Needs scikit-learn for the digits (pip install 'maxslope[data]').
"""

import sys

import maxslope as ms


def main(folder: str | None = None) -> ms.Report:
    model = ms.models.digits_cnn_robust()
    data = ms.data.load_data("digits", limit=200)
    adversaries = {}
    for eps in (0.05, 0.1):
        adversaries[f"fgsm {eps}"] = ms.fgsm(eps, bounds=(0, 1))
        adversaries[f"pgd {eps}"] = ms.pgd(eps, steps=20, bounds=(0, 1), loss=ms.margin)
    report = ms.evaluate(model, data, adversaries, name="digits_cnn_robust", out=folder)
    print(report.table())
    for (norm, eps), rate in report.worst_case.items():
        print(
            f"{norm}, eps {eps}: at most {float(rate):.1%} robust (95 % interval {rate.low:.1%} to {rate.high:.1%})"
        )
    return report


if __name__ == "__main__":
    main(*sys.argv[1:2])
